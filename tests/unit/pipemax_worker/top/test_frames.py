"""Frames as they are printed, on wide and narrow terminals."""

from __future__ import annotations

from io import StringIO

import pytest
from kit.fake_kubectl import job_document, pod_document
from kit.progress import make_snapshot
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.telemetry.progress import progress_as_json
from pipemax_worker.top.cluster import parse_jobs, parse_running_pods
from pipemax_worker.top.cluster_frame import MIN_JOBS_SHOWN, draw_cluster
from pipemax_worker.top.rates import measure_rates
from pipemax_worker.top.read_cluster import ClusterPicture
from pipemax_worker.top.worker_frame import draw_share, draw_workers
from pipemax_worker.top.worker_page import WorkerPage, parse_worker_page
from rich.console import Console, RenderableType


def printed(frame: RenderableType, width: int) -> str:
    stream = StringIO()
    Console(file=stream, width=width, color_system=None).print(frame)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    return "\n".join(lines)


def page_of(**changes: object) -> WorkerPage:
    return parse_worker_page(progress_as_json(make_snapshot(**changes)), "here")


def draw_one(page: WorkerPage, width: int, **faults: str) -> str:
    rates = {"http://here": measure_rates(None, page)}
    return printed(draw_workers({"http://here": page}, rates, faults, width), width)


def test_a_worker_with_all_it_has() -> None:
    page = page_of(energy=EnergyTotals(400.0, 60.0), power_watts=310.4, warnings=("slow disk",))
    text = draw_one(page, 100, other="http://there: no worker answers")
    assert text.startswith("reviews  Running  http://here\n")
    assert "25% done, 40 of about 160 requests, 4 failed, 6 in flight" in text
    assert "1 min 30 s left" in text
    assert "7 generated, 34 computed of prompts (since the start)" in text
    assert "device    ██████████··········   50%       3       2     1" in text
    assert "host to device 102.4 KiB/s" in text
    assert "0         ████████████········       60%     10%    30%" in text
    assert "energy    310 W, 400 J over 0.0167 GPU-hours, 0.5 generated tokens/J" in text
    assert "warning   slow disk" in text
    assert "http://there: no worker answers" in text


@pytest.mark.parametrize("width", [30, 46, 60, 200])
def test_a_worker_on_any_terminal(width: int) -> None:
    text = draw_one(page_of(warnings=("a warning that is long enough to need lines",)), width)
    assert "device" in text


def test_a_worker_that_still_loads() -> None:
    text = draw_one(page_of(phase="Starting", statistics=EngineStatistics()), 80)
    assert "tier" not in text
    assert "stage" not in text
    assert "energy" not in text


def test_bars_are_full_only_when_all_is() -> None:
    assert draw_share(0.999, 10) == "█████████·"
    assert draw_share(1.0, 10) == "█" * 10
    assert draw_share(-1.0, 10) == "·" * 10


def picture(num_jobs: int = 1) -> ClusterPicture:
    documents = [job_document(f"reviews{n or ''}") for n in range(num_jobs)]
    documents += [job_document("held", "Suspended", "WaitingForQuota")]
    return ClusterPicture(
        parse_jobs(documents),
        parse_running_pods([pod_document("reviews-0"), pod_document("reviews-1")]),
        {"a/reviews-0": page_of(power_watts=300.0)},
        ("1 of 2 workers do not answer: forbidden",),
    )


def draw(shown: ClusterPicture, width: int, height: int | None = None) -> str:
    rates = {name: measure_rates(None, page) for name, page in shown.pages.items()}
    return printed(draw_cluster(shown, rates, width, height), width)


def test_a_cluster_on_a_wide_terminal() -> None:
    text = draw(picture(), 150)
    assert text.startswith("2 InferenceJobs: 1 Running, 1 Suspended; 1234 tokens/s\n")
    rows = [line.split() for line in text.splitlines()]
    assert " ".join(rows[3]) == "a reviews Running 42% 420/~1000 3 1234 3h5m 2.50 2 4.0 GiB"
    assert rows[4][:4] == ["a", "held", "Suspended", "WaitingForQuota"]
    assert "1234" not in rows[4], "what does not run has no rate"
    worker = next(row for row in rows if row[:1] == ["reviews-0"])
    assert worker[:5] == ["reviews-0", "node-a", "7", "50%", "42%"]
    assert worker[-2:] == ["10%", "300"]
    assert "reviews-1  node-a  no answer" in text
    assert text.endswith("1 of 2 workers do not answer: forbidden")


def test_a_narrow_terminal_keeps_what_matters_most() -> None:
    text = draw(picture(), 50)
    assert "namespace" not in text
    assert "node-a" not in text
    for word in ("reviews", "Running", "42%", "1234", "3h5m", "stalls"):
        assert word in text


def test_jobs_that_do_not_fit_are_counted() -> None:
    text = draw(picture(num_jobs=40), 100, height=24)
    assert "and 26 more" in text
    assert len(text.splitlines()) <= 24
    assert "more" not in draw(picture(num_jobs=40), 100, height=None)
    assert f"and {41 - MIN_JOBS_SHOWN} more" in draw(picture(num_jobs=40), 100, height=3)


def test_an_empty_cluster() -> None:
    assert draw(ClusterPicture(()), 80).strip() == "no InferenceJobs"
