"""Pages of workers, newer and older ones, and what is none."""

from __future__ import annotations

import pytest
from kit.progress import make_snapshot
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.errors import UnreachableError
from pipemax_worker.telemetry.progress import progress_as_json
from pipemax_worker.top.http import progress_url
from pipemax_worker.top.worker_page import Blocks, parse_worker_page


def test_a_workers_own_page() -> None:
    snapshot = make_snapshot(energy=EnergyTotals(400.0, 60.0), power_watts=300.0)
    page = parse_worker_page(progress_as_json(snapshot), "here")
    assert (page.job, page.phase, page.requests.done) == ("reviews", "Running", 40)
    assert page.kv_blocks["device"] == Blocks(3, 2, 1)
    assert page.kv_blocks["device"].used_share == 0.5
    assert page.kv_swap_bytes["host-device"] == 3 << 20
    assert page.stage_seconds[0].stall == 1.0
    assert (page.energy.joules, page.power_watts) == (400.0, 300.0)
    assert page.remaining_seconds == 90.0


def test_an_older_worker_lacks_fields_and_a_newer_one_has_more() -> None:
    page = parse_worker_page(b'{"job": "a", "phase": "Running", "invented": [1]}', "here")
    assert (page.stage_seconds, page.kv_blocks, page.power_watts) == ((), {}, None)
    assert Blocks().used_share == 0.0


@pytest.mark.parametrize("data", [b"", b"<html>", b"{}", b'{"job": 7}', b"[]"])
def test_something_else_that_answers(data: bytes) -> None:
    with pytest.raises(UnreachableError, match=r"host:1: .*no PipeMax worker"):
        parse_worker_page(data, "host:1")


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("9400", "http://127.0.0.1:9400/progress"),
        ("node-a:9400", "http://node-a:9400/progress"),
        ("http://node-a:9400", "http://node-a:9400/progress"),
        ("https://node-a/metrics", "https://node-a/progress"),
    ],
)
def test_places_as_people_give_them(place: str, url: str) -> None:
    assert progress_url(place) == url
