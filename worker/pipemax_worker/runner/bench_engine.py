"""Runs a benchmark's work once through a pipeline of its own and says where the time went."""

from __future__ import annotations

import time

import msgspec

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.request import FinishReason, RecordKey, Request, SamplingParams
from pipemax_worker.contract.statistics import CopyTotals, EngineStatistics, StageTotals, StepRecord
from pipemax_worker.engine.engine import Engine
from pipemax_worker.engine.hidden_length import LengthReached
from pipemax_worker.errors import InvariantError
from pipemax_worker.pipeline.measured_split import SplitAdvice, advise_split
from pipemax_worker.pipeline.settings import split_costs
from pipemax_worker.runner.bench_floor import (
    CopySpeeds,
    StepFloor,
    build_floor,
    gpu_memory_used_bytes,
)
from pipemax_worker.runner.bench_timeline import SAMPLE_SECONDS, SteadyPart, Timeline
from pipemax_worker.runner.bench_work import BenchWork
from pipemax_worker.runner.session import Session, open_session
from pipemax_worker.runner.sizing import SessionSettings


class EngineRun(msgspec.Struct, frozen=True):
    """One run, warm-up and loading left out.

    seconds                from handing over the requests until the last of them is complete.
    median_step_seconds    of the slowest stage.
    peak_live_blocks       blocks that requests held at a time, wherever their KV was.
    num_device_blocks      the device tier.
    floor_seconds          what the median step cannot be faster than; 0: not measured.
    gpu_memory_bytes       of each GPU at the end, by all programs: engines do not give memory back.
    layers_of_stage, mlp_left_by_stage   how the model was cut (``ModelCut``).
    split_advice           how the stages' times ask for it to be cut.
    """

    seconds: float
    num_prompt_tokens: int
    num_generated_tokens: int
    num_steps: int
    mean_batch_tokens: float
    median_step_seconds: float
    num_preemptions: int
    num_recomputed_tokens: int
    num_cached_tokens: int
    stages: tuple[StageTotals, ...]
    copies: tuple[CopyTotals, ...]
    peak_live_blocks: int
    num_device_blocks: int
    token_ids: tuple[tuple[int, ...], ...]
    steady: SteadyPart | None = None
    floor_seconds: float = 0.0
    steady_floor_seconds: float = 0.0
    gpu_memory_bytes: tuple[int, ...] = ()
    layers_of_stage: tuple[int, ...] = ()
    split_advice: SplitAdvice | None = None
    mlp_left_by_stage: tuple[bool, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        return self.num_generated_tokens / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return sum(copy.num_bytes for copy in self.copies) / self.seconds


def run_engine(
    settings: SessionSettings,
    work: BenchWork,
    warm_up: BenchWork,
    speeds: CopySpeeds | None = None,
) -> EngineRun:
    """Start a pipeline, run ``warm_up`` through it, then ``work``, and stop it. With ``speeds`` the
    steps are compared with what they cannot be faster than.

    Every run has a pipeline of its own, so that none finds the prefixes of the one before it.
    Raises what ``open_session`` raises, RequestError if a request can never run in the tiers, and
    InvariantError if an output has another length than was asked for.
    """
    with open_session(settings) as session:
        return run_session(session, settings, work, warm_up, speeds)


def run_session(
    session: Session,
    settings: SessionSettings,
    work: BenchWork,
    warm_up: BenchWork,
    speeds: CopySpeeds | None = None,
) -> EngineRun:
    """As ``run_engine``, through a pipeline that is there already."""
    _generate(session.engine, warm_up, "warm-up")
    before = session.engine.statistics
    session.engine.take_step_records()
    timeline = Timeline(session.engine, MonotonicClock(), len(work))
    start = time.perf_counter()
    token_ids, peak_live_blocks = _generate(session.engine, work, "work", timeline)
    seconds = time.perf_counter() - start
    steps = timeline.take_records()
    run = summarise(
        seconds,
        work,
        before,
        session.engine.statistics,
        steps,
        (peak_live_blocks, session.geometry.num_device_slots),
        token_ids,
    )
    cut = session.geometry.cut
    stage_seconds = [stage.compute_seconds for stage in run.stages]
    run = msgspec.structs.replace(
        run,
        steady=timeline.steady_part(),
        gpu_memory_bytes=gpu_memory_used_bytes(),
        layers_of_stage=cut.layers_of_stage,
        mlp_left_by_stage=cut.mlp_left_by_stage,
        split_advice=advise_split(split_costs(settings.pipeline), cut, stage_seconds),
    )
    if speeds is None:
        return run
    return with_floor(run, build_floor(settings.pipeline, session.geometry, speeds), steps)


def with_floor(run: EngineRun, floor: StepFloor, steps: list[StepRecord]) -> EngineRun:
    return msgspec.structs.replace(
        run,
        floor_seconds=floor.median_seconds(steps),
        steady_floor_seconds=floor.median_seconds(run.steady.steps) if run.steady else 0.0,
    )


def _add_requests(engine: Engine, work: BenchWork, name: str) -> None:
    for number, (prompt, count) in enumerate(zip(work.prompts, work.max_tokens, strict=True)):
        told = work.hidden_max_tokens or count
        sampling = SamplingParams(max_tokens=told, min_tokens=count, temperature=0.0)
        checker = None if told == count else LengthReached(count)
        engine.add_request(Request(RecordKey(name, number), 0, prompt, sampling), checker)


def _generate(
    engine: Engine, work: BenchWork, name: str, timeline: Timeline | None = None
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The outputs in the order of the work, and the most blocks that requests held at a time."""
    _add_requests(engine, work, name)
    answers: dict[int, tuple[int, ...]] = {}
    peak_live_blocks = 0
    next_look = 0.0
    while engine.has_unfinished_requests:
        for finished in engine.step():
            if finished.finish_reason is FinishReason.ERROR:
                raise InvariantError(f"request {finished.key}: {finished.error_message}")
            answers[finished.key.offset] = finished.token_ids
        if timeline is not None:
            timeline.note_step(len(answers))
        if time.perf_counter() >= next_look:
            peak_live_blocks = max(peak_live_blocks, num_live_blocks(engine.statistics))
            next_look = time.perf_counter() + SAMPLE_SECONDS
    return tuple(answers[number] for number in range(len(work))), peak_live_blocks


def num_live_blocks(statistics: EngineStatistics) -> int:
    """Blocks that requests hold: each has a HOST slot where there is a host tier."""
    used = {occupancy.tier: occupancy.num_used for occupancy in statistics.occupancy}
    return max(used.get(Tier.HOST, 0), used.get(Tier.DEVICE, 0))


def summarise(
    seconds: float,
    work: BenchWork,
    before: EngineStatistics,
    after: EngineStatistics,
    steps: list[StepRecord],
    blocks: tuple[int, int],
    token_ids: tuple[tuple[int, ...], ...],
) -> EngineRun:
    """What changed between two snapshots. ``blocks``: the peak of live ones, the device tier's."""
    if tuple(map(len, token_ids)) != work.max_tokens:
        raise InvariantError("an output has another length than was asked for")
    num_steps = after.num_steps - before.num_steps
    num_batched = after.num_batched_tokens - before.num_batched_tokens
    step_seconds = sorted(step.seconds for step in steps)
    return EngineRun(
        seconds=seconds,
        num_prompt_tokens=work.num_prompt_tokens,
        num_generated_tokens=work.num_output_tokens,
        num_steps=num_steps,
        mean_batch_tokens=num_batched / max(1, len(steps)),
        median_step_seconds=step_seconds[len(step_seconds) // 2] if step_seconds else 0.0,
        num_preemptions=_num_preemptions(after) - _num_preemptions(before),
        num_recomputed_tokens=after.num_recomputed_tokens - before.num_recomputed_tokens,
        num_cached_tokens=after.num_cached_tokens - before.num_cached_tokens,
        stages=_stage_difference(before.stages, after.stages),
        copies=_copy_difference(before.copies, after.copies),
        peak_live_blocks=blocks[0],
        num_device_blocks=blocks[1],
        token_ids=token_ids,
    )


def _num_preemptions(statistics: EngineStatistics) -> int:
    return statistics.num_preemptions_by_move + statistics.num_preemptions_by_recompute


def _stage_difference(
    before: tuple[StageTotals, ...], after: tuple[StageTotals, ...]
) -> tuple[StageTotals, ...]:
    return tuple(
        StageTotals(
            new.stage,
            new.compute_seconds - old.compute_seconds,
            new.stall_seconds - old.stall_seconds,
            new.wait_seconds - old.wait_seconds,
            new.grammar_wait_seconds - old.grammar_wait_seconds,
        )
        for old, new in zip(before, after, strict=True)
    )


def _copy_difference(
    before: tuple[CopyTotals, ...], after: tuple[CopyTotals, ...]
) -> tuple[CopyTotals, ...]:
    old = {(copy.source, copy.target): copy for copy in before}
    differences = []
    for new in after:
        known = old.get((new.source, new.target))
        num_bytes = new.num_bytes - (known.num_bytes if known else 0)
        seconds = new.seconds - (known.seconds if known else 0.0)
        if num_bytes:
            differences.append(CopyTotals(new.source, new.target, num_bytes, seconds))
    return tuple(differences)
