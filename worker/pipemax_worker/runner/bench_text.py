"""A benchmark's findings as lines for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.statistics import CopyTotals, StageTotals
from pipemax_worker.runner.bench_conditions import BenchConditions
from pipemax_worker.runner.bench_engine import EngineRun
from pipemax_worker.runner.bench_results import BenchReport, Measured
from pipemax_worker.telemetry.progress import format_bytes

_ARROWS = {
    (Tier.HOST, Tier.DEVICE): "loaded",
    (Tier.DEVICE, Tier.HOST): "stored",
    (Tier.HOST, Tier.NVME): "demoted",
    (Tier.NVME, Tier.HOST): "promoted",
}


def describe_conditions(conditions: BenchConditions) -> Iterator[str]:
    packages = ", ".join(f"{name} {number}" for name, number in conditions.packages.items())
    load = f"load {conditions.load_average:.2f}, {conditions.wait_policy}"
    yield f"machine   {conditions.cpu}, {conditions.cores} cores, {load}"
    yield f"software  {packages}, Python {conditions.python}, commit {conditions.commit}"
    yield f"model     {conditions.model}, {conditions.dtype}"
    yield (
        f"work      {conditions.num_requests} requests, greedy, exact lengths; "
        f"prompts {_spread(conditions.prompt_tokens)}, outputs {_spread(conditions.output_tokens)}"
    )
    yield (
        f"settings  at most {conditions.max_batched_tokens} tokens a step, "
        f"{conditions.max_num_running} requests at a time, "
        f"blocks of {conditions.block_tokens} tokens"
    )


def _spread(lengths: tuple[int, int, int]) -> str:
    shortest, total, longest = lengths
    return f"{shortest}..{longest} tokens ({total} in all)"


def describe_run(run: EngineRun) -> str:
    """One run in one line, as it ends."""
    return (
        f"{run.tokens_per_second:8.1f} tokens/s  "
        f"({(run.num_prompt_tokens + run.num_generated_tokens) / run.seconds:.1f} with prompts)  "
        f"{run.seconds:.2f} s, {run.num_steps} steps of {run.mean_batch_tokens:.1f} tokens, "
        f"{1e3 * run.median_step_seconds:.1f} ms each"
    )


def describe_baseline_run(num_tokens: int, seconds: float) -> str:
    return f"{num_tokens / seconds:8.1f} tokens/s  {seconds:.2f} s"


def describe_report(report: BenchReport) -> Iterator[str]:
    """The summary: where our time went, what was compared, the ratios."""
    for measured in report.pipemax:
        yield from _describe_measured(measured)
    for best in report.best_of_each_method():
        yield (
            f"transformers {best.name}: {best.tokens_per_second:.1f} tokens/s, best of its runs; "
            f"same tokens for {report.num_equal(best)} of {report.conditions.num_requests} requests"
        )
    if report.is_rotation:
        yield from _describe_rotation(report)
    for name, ratio in report.ratios().items():
        yield f"ratio     {ratio:5.2f}  {name}"


def _describe_measured(measured: Measured) -> Iterator[str]:
    run = measured.median_run
    speeds = ", ".join(f"{one.tokens_per_second:.1f}" for one in measured.runs)
    yield f"{measured.name}: {measured.tokens_per_second:.1f} tokens/s, median of {speeds}"
    for stage in run.stages:
        yield f"  stage {stage.stage}  {_shares(stage, run.seconds)}"
    if run.copies:
        yield "  copies   " + ", ".join(map(_describe_copy, run.copies))
    if run.num_preemptions or run.num_recomputed_tokens:
        yield (
            f"  preempted {run.num_preemptions} times, "
            f"{run.num_recomputed_tokens} tokens computed again"
        )


def _shares(stage: StageTotals, seconds: float) -> str:
    parts = {
        "compute": stage.compute_seconds,
        "stall": stage.stall_seconds,
        "wait": stage.wait_seconds,
    }
    parts["idle"] = max(0.0, seconds - sum(parts.values()))
    return ", ".join(f"{name} {100 * part / seconds:.1f} %" for name, part in parts.items())


def _describe_copy(copy: CopyTotals) -> str:
    return f"{_ARROWS[copy.source, copy.target]} {format_bytes(copy.num_bytes)}"


def _describe_rotation(report: BenchReport) -> Iterator[str]:
    for measured in report.pipemax:
        run = measured.median_run
        yield (
            f"{measured.name}: KV of {run.peak_live_blocks} blocks in flight on "
            f"{run.num_device_blocks} device blocks "
            f"({run.peak_live_blocks / run.num_device_blocks:.1f} times)"
        )
