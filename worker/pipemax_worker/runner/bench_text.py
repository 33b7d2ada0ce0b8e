"""A benchmark's findings as lines for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.model_cut import ModelCut
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
    if conditions.copies is not None:
        yield f"device    {_describe_copies(conditions)}"
    yield f"model     {conditions.model}, {conditions.dtype}"
    hidden = conditions.hidden_max_tokens
    told = f" (the scheduler is told {hidden})" if hidden else ""
    yield (
        f"work      {conditions.num_requests} requests, greedy, exact lengths{told}; "
        f"prompts {_spread(conditions.prompt_tokens)}, outputs {_spread(conditions.output_tokens)}"
    )
    yield (
        f"settings  at most {conditions.max_batched_tokens} tokens a step, "
        f"{conditions.max_num_running} requests at a time, "
        f"blocks of {conditions.block_tokens} tokens"
    )


def _describe_copies(conditions: BenchConditions) -> str:
    speeds = conditions.copies
    assert speeds is not None
    parts = [speeds.name, f"copies {speeds.device / 1e9:.0f} GB/s (read and written)"]
    if speeds.host_to_device:
        parts.append(
            f"link {speeds.host_to_device / 1e9:.1f} GB/s in, {speeds.device_to_host / 1e9:.1f} out"
        )
    if conditions.memory_limit_bytes is not None:
        parts.append(f"each stage held to {format_bytes(conditions.memory_limit_bytes)}")
    return ", ".join(parts)


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
    yield from _describe_steady(run)
    yield from _describe_floor(run)
    for stage in run.stages:
        yield f"  stage {stage.stage}  {_shares(stage, run.seconds)}"
    yield from _describe_split(run)
    if run.copies:
        yield "  copies   " + ", ".join(_describe_copy(copy, run) for copy in run.copies)
    if run.gpu_memory_bytes:
        used = ", ".join(f"{num_bytes >> 20}" for num_bytes in run.gpu_memory_bytes)
        yield f"  memory   {used} MiB used on the GPUs, as nvidia-smi says"
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


def _describe_split(run: EngineRun) -> Iterator[str]:
    advice = run.split_advice
    if len(run.layers_of_stage) < 2 or advice is None:
        return
    cut = ModelCut(run.layers_of_stage, run.mlp_left_by_stage)
    text = f"  layers   {cut.describe(',')}"
    if advice.layers_of_stage != run.layers_of_stage:
        better = ",".join(map(str, advice.layers_of_stage))
        share = f"{100 * advice.time_share:.0f} %"
        text += f"; by these times --layers {better} would take {share} of the slowest stage's"
    yield text


def _describe_steady(run: EngineRun) -> Iterator[str]:
    steady = run.steady
    if steady is not None:
        yield (
            f"  steady   {steady.tokens_per_second:.1f} tokens/s "
            f"(+ {steady.prompt_tokens_per_second:.1f} of prompts) for {steady.seconds:.1f} s"
        )


def _describe_floor(run: EngineRun) -> Iterator[str]:
    """Of the whole run, and of its steady part with what lies between two steps."""
    if not run.floor_seconds:
        return
    parts = [_over_floor("median", run.median_step_seconds, run.floor_seconds)]
    if run.steady is not None and run.steady_floor_seconds:
        floor = run.steady_floor_seconds
        steps = sorted(step.seconds for step in run.steady.steps)
        if steps:
            parts.append(_over_floor("steady", steps[len(steps) // 2], floor))
        parts.append(_over_floor("steady with gaps", run.steady.period_seconds, floor))
    yield "  step     " + "; ".join(parts)


def _over_floor(name: str, seconds: float, floor_seconds: float) -> str:
    return (
        f"{name} {1e3 * seconds:.2f} ms, {seconds / floor_seconds:.2f} times its floor of "
        f"{1e3 * floor_seconds:.2f}"
    )


def _describe_copy(copy: CopyTotals, run: EngineRun) -> str:
    text = f"{_ARROWS[copy.source, copy.target]} {format_bytes(copy.num_bytes)}"
    if not copy.seconds:
        return text
    speed = copy.num_bytes / len(run.stages) / copy.seconds
    return f"{text} at {speed / 1e9:.1f} GB/s a stage"


def _describe_rotation(report: BenchReport) -> Iterator[str]:
    for measured in report.pipemax:
        run = measured.median_run
        yield (
            f"{measured.name}: KV of {run.peak_live_blocks} blocks in flight on "
            f"{run.num_device_blocks} device blocks "
            f"({run.peak_live_blocks / run.num_device_blocks:.1f} times)"
        )
