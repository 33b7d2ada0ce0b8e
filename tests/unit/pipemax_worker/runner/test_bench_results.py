"""Ratios: our median over their best, and the report as text and JSON."""

import json

import msgspec
import pytest
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.statistics import CopyTotals, StageTotals, StepRecord
from pipemax_worker.pipeline.measured_split import SplitAdvice
from pipemax_worker.runner.bench_conditions import BenchConditions
from pipemax_worker.runner.bench_engine import EngineRun
from pipemax_worker.runner.bench_floor import CopySpeeds
from pipemax_worker.runner.bench_results import BaselineMeasured, BenchReport, Measured
from pipemax_worker.runner.bench_text import describe_conditions, describe_report, describe_run
from pipemax_worker.runner.bench_timeline import SteadyPart

CONDITIONS = BenchConditions(
    cpu="A CPU",
    cores=2,
    load_average=0.5,
    wait_policy="PASSIVE",
    python="3.11.7",
    packages={"torch": "2.15.0"},
    commit="abc",
    model="tiny",
    dtype="float32",
    num_requests=2,
    prompt_tokens=(1, 6, 3),
    output_tokens=(4, 18, 9),
    max_batched_tokens=77,
    max_num_running=64,
    block_tokens=16,
)


def a_run(seconds: float, num_preemptions: int = 0) -> EngineRun:
    return EngineRun(
        seconds=seconds,
        num_prompt_tokens=300,
        num_generated_tokens=100,
        num_steps=7,
        mean_batch_tokens=57.1,
        median_step_seconds=0.25,
        num_preemptions=num_preemptions,
        num_recomputed_tokens=0,
        num_cached_tokens=0,
        stages=(StageTotals(0, seconds / 2, seconds / 10, seconds / 5),),
        copies=(CopyTotals(Tier.HOST, Tier.DEVICE, 3 << 20, 0.1),),
        peak_live_blocks=40,
        num_device_blocks=10,
        token_ids=((1, 2), (3,)),
    )


def baseline(
    method: str, *seconds: float, token_ids: tuple[tuple[int, ...], ...] = ((1, 2), (3,))
) -> BaselineMeasured:
    return BaselineMeasured(f"{method} {seconds}", method, seconds, 100, token_ids)


ONE = Measured("one", 1, (a_run(1.0), a_run(4.0), a_run(2.0)))
TWO = Measured("two", 2, (a_run(2.5),))
REPORT = BenchReport(
    CONDITIONS,
    (ONE, TWO),
    (
        baseline("padded", 5.0, 4.0),
        baseline("padded", 10.0),
        BaselineMeasured("broken", "padded", (), 100, error="ValueError: no"),
        baseline("continuous", 20.0, token_ids=((1, 2), (4,))),
    ),
)


def test_our_median_counts() -> None:
    assert ONE.tokens_per_second == 50.0
    assert ONE.median_run.seconds == 2.0
    assert Measured("even", 1, (a_run(1.0), a_run(4.0))).median_run.seconds == 4.0


def test_their_best_counts_and_a_failed_setting_is_passed_over() -> None:
    best = REPORT.best_of_each_method()
    assert [(one.method, one.tokens_per_second) for one in best] == [
        ("padded", 25.0),
        ("continuous", 5.0),
    ]


def test_ratios_name_both_sides() -> None:
    assert REPORT.ratios() == pytest.approx(
        {
            "two / one": 0.8,
            "one / transformers padded": 2.0,
            "two / transformers padded": 1.6,
            "one / transformers continuous": 10.0,
            "two / transformers continuous": 8.0,
        }
    )


def test_requests_with_the_same_tokens_are_counted() -> None:
    padded, continuous = REPORT.best_of_each_method()
    assert REPORT.num_equal(padded) == 2
    assert REPORT.num_equal(continuous) == 1


def test_json_holds_everything_but_the_tokens() -> None:
    document = json.loads(REPORT.as_json())
    assert "token_ids" not in REPORT.as_json().decode()
    assert document["ratios"]["two / one"] == pytest.approx(0.8)
    assert document["tokens_per_second"]["one"] == 50.0
    assert document["pipemax"][0]["runs"][1]["seconds"] == 4.0
    assert document["conditions"]["cpu"] == "A CPU"


def test_the_text_has_conditions_shares_and_ratios() -> None:
    text = "\n".join([*describe_conditions(CONDITIONS), *describe_report(REPORT)])
    for part in (
        "A CPU, 2 cores",
        "prompts 1..3 tokens (6 in all), outputs 4..9 tokens (18 in all)",
        "one: 50.0 tokens/s, median of 100.0, 25.0, 50.0",
        "compute 50.0 %, stall 10.0 %, wait 20.0 %, idle 20.0 %",
        "loaded 3.0 MiB",
        "same tokens for 1 of 2 requests",
        " 0.80  two / one",
    ):
        assert part in text
    assert "preempted" not in text


def test_a_split_that_the_times_ask_for_is_named() -> None:
    advice = SplitAdvice((16, 17, 17, 14), 0.95)
    cut = msgspec.structs.replace(a_run(2.0), layers_of_stage=(15, 17, 17, 15), split_advice=advice)
    report = BenchReport(CONDITIONS, (Measured("uneven", 4, (cut,)),))
    text = "\n".join(describe_report(report))
    better = "by these times --layers 16,17,17,14 would take 95 % of the slowest stage's"
    assert f"  layers   15,17,17,15; {better}" in text
    within = msgspec.structs.replace(cut, mlp_left_by_stage=(True, False, False, False))
    report = BenchReport(CONDITIONS, (Measured("within", 4, (within,)),))
    assert f"  layers   15-,17,17,15; {better}" in "\n".join(describe_report(report))
    good = msgspec.structs.replace(cut, split_advice=SplitAdvice((15, 17, 17, 15), 1.0))
    report = BenchReport(CONDITIONS, (Measured("uneven", 4, (good,)),))
    assert "  layers   15,17,17,15\n" in "\n".join(describe_report(report)) + "\n"


def test_rotation_says_how_far_the_device_tier_is_exceeded() -> None:
    tight = Measured("tight", 1, (a_run(1.0, num_preemptions=2),))
    text = "\n".join(describe_report(BenchReport(CONDITIONS, (tight,), is_rotation=True)))
    assert "tight: KV of 40 blocks in flight on 10 device blocks (4.0 times)" in text
    assert "preempted 2 times" in text


def test_a_gpu_run_says_floor_steady_part_links_and_memory() -> None:
    steps = tuple(StepRecord(n, 64, 32, seconds) for n, seconds in enumerate((0.004, 0.005, 0.006)))
    run = msgspec.structs.replace(
        a_run(2.0),
        steady=SteadyPart(10.0, 4000, 5000, 1000, steps),
        floor_seconds=0.2,
        steady_floor_seconds=0.004,
        gpu_memory_bytes=(24509 << 20,),
    )
    conditions = msgspec.structs.replace(
        CONDITIONS,
        copies=CopySpeeds("A GPU", 4.2e12, 55e9, 54e9),
        memory_limit_bytes=24 << 30,
        hidden_max_tokens=1536,
    )
    report = BenchReport(conditions, (Measured("one", 1, (run,)),))
    text = "\n".join([*describe_conditions(conditions), *describe_report(report)])
    for part in (
        "A GPU, copies 4200 GB/s (read and written), link 55.0 GB/s in, 54.0 out, each stage held "
        "to 24.0 GiB",
        "exact lengths (the scheduler is told 1536)",
        "steady   500.0 tokens/s (+ 400.0 of prompts) for 10.0 s",
        "median 250.00 ms, 1.25 times its floor of 200.00",
        "steady 5.00 ms, 1.25 times its floor of 4.00",
        "steady with gaps 10.00 ms, 2.50 times its floor of 4.00",
        "loaded 3.0 MiB at",
        "24509 MiB used",
    ):
        assert part in text, part


def test_a_run_is_one_line_with_both_rates() -> None:
    line = describe_run(a_run(2.0))
    assert "50.0 tokens/s" in line
    assert "(200.0 with prompts)" in line
    assert "7 steps of 57.1 tokens, 250.0 ms each" in line
