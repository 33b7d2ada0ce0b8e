"""Rates between two pages: of the time between them, or since the start."""

from __future__ import annotations

from typing import Any

import msgspec
from pipemax_worker.top.rates import RateMeter, StageShares, measure_rates
from pipemax_worker.top.worker_page import Energy, StageSeconds, WorkerPage

FIRST = WorkerPage(
    job="reviews",
    phase="Running",
    elapsed_seconds=10.0,
    tokens={"generated": 1000, "prompt": 500, "recomputed": 20},
    kv_swap_bytes={"host-device": 4000},
    stage_seconds=(StageSeconds(0, 8.0, 1.0, 1.0), StageSeconds(1, 5.0, 0.0, 5.0)),
    energy=Energy(3000.0, 20.0),
)


def later(**changes: Any) -> WorkerPage:
    return msgspec.structs.replace(
        FIRST,
        **{
            "elapsed_seconds": 12.0,
            "tokens": {"generated": 1600, "prompt": 510, "recomputed": 30},
            "kv_swap_bytes": {"host-device": 5000, "device-host": 200},
            "stage_seconds": (StageSeconds(0, 8.5, 2.5, 1.0), StageSeconds(1, 5.0, 0.0, 7.0)),
            "energy": Energy(3600.0, 24.0),
            **changes,
        },
    )


def test_the_first_page_tells_averages() -> None:
    rates = measure_rates(None, FIRST)
    assert rates.is_average
    assert (rates.generated_tokens, rates.prompt_tokens) == (100.0, 52.0)
    assert rates.swap_bytes == {"host-device": 400.0}
    assert rates.stages[0] == StageShares(0, 0.8, 0.1, 0.1)
    assert rates.tokens_per_joule == 1000 / 3000


def test_two_pages_tell_what_happened_between_them() -> None:
    rates = measure_rates(FIRST, later())
    assert not rates.is_average
    assert (rates.generated_tokens, rates.prompt_tokens) == (300.0, 10.0)
    assert rates.swap_bytes == {"host-device": 500.0, "device-host": 100.0}
    assert rates.stages == (StageShares(0, 0.25, 0.75, 0.0), StageShares(1, 0.0, 0.0, 1.0))
    assert rates.stall_share == 0.75
    assert rates.tokens_per_joule == 1.0


def test_another_run_at_the_same_place_begins_anew() -> None:
    rates = measure_rates(later(), FIRST)
    assert rates.is_average
    assert rates.generated_tokens == 100.0


def test_a_counter_that_went_back_is_not_negative() -> None:
    assert measure_rates(FIRST, later(kv_swap_bytes={"host-device": 1})).swap_bytes == {
        "host-device": 0.0
    }


def test_a_worker_that_has_just_begun_divides_by_nothing() -> None:
    rates = measure_rates(None, WorkerPage(job="a", phase="Starting", tokens={"generated": 0}))
    assert (rates.generated_tokens, rates.stages, rates.stall_share) == (0.0, (), None)
    assert rates.tokens_per_joule is None


def test_a_meter_knows_each_worker_and_forgets_who_is_gone() -> None:
    meter = RateMeter()
    assert meter.measure({"a": FIRST})["a"].is_average
    assert not meter.measure({"a": later(), "b": FIRST})["a"].is_average
    meter.measure({"b": later()})
    assert meter.measure({"a": later(elapsed_seconds=20.0)})["a"].is_average
