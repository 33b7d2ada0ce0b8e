"""What every stage and link of a simulated run did when, and how full the tiers were.

Kept by standing between the engine and the simulated pipeline: nothing of the run changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import ExecutorEvent, StageInput, StageReport
from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.engine.engine import Engine
from pipemax_worker.planner.simulated_links import LinkSpeeds, StageLinks
from pipemax_worker.planner.simulated_pipeline import SimulatedPipeline
from pipemax_worker.planner.simulation import (
    Simulation,
    SimulationResult,
    SimulationSettings,
    link_speeds,
)
from pipemax_worker.planner.workload import Workload

_MESSAGES_PER_LOOK = 8


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One message with rows on one stage, in seconds of the run. Before ``begin`` it waited for KV
    (``stall_seconds``), and then for hidden states or tokens (``wait_seconds``)."""

    stage: int
    micro_batch_id: int
    begin: float
    end: float
    stall_seconds: float
    wait_seconds: float
    num_tokens: int


class LinkUse(msgspec.Struct, frozen=True, gc=False):
    """One copy on one stage's link."""

    stage: int
    source: Tier
    target: Tier
    begin: float
    end: float


class Look(msgspec.Struct, frozen=True):
    """At the engine: requests, and by tier the share of its slots that hold KV (0 of none)."""

    seconds: float
    num_running: int
    num_waiting: int
    used: dict[Tier, float]


class Timeline(msgspec.Struct, frozen=True):
    """Of one run."""

    num_stages: int
    seconds: float
    turns: tuple[Turn, ...]
    link_uses: tuple[LinkUse, ...]
    looks: tuple[Look, ...]


class _RecordedLinks(StageLinks):
    """The links of a stage; what they carry is noted in ``uses``."""

    def __init__(self, speeds: LinkSpeeds, stage: int, uses: list[LinkUse]) -> None:
        super().__init__(speeds)
        self._stage, self._uses = stage, uses

    def copy(self, job: CopyJob, num_bytes: int, ordered: float) -> tuple[float, float]:
        landed, seconds = super().copy(job, num_bytes, ordered)
        self._uses.append(LinkUse(self._stage, job.source, job.target, landed - seconds, landed))
        return landed, seconds


class _Recorder:
    """An ``Executor`` that hands everything through. A stage takes up a message when it is free and
    has been told of it, so its reports say when it began each."""

    def __init__(self, pipeline: SimulatedPipeline, engine: Engine, speeds: LinkSpeeds) -> None:
        self.turns: list[Turn] = []
        self.uses: list[LinkUse] = []
        self.looks: list[Look] = []
        self._pipeline, self._engine = pipeline, engine
        self._ordered: dict[int, tuple[float, int]] = {}
        self._free = [0.0] * len(pipeline.stages)
        for number, stage in enumerate(pipeline.stages):
            stage.links = _RecordedLinks(speeds, number, self.uses)

    def submit(self, stage_input: StageInput) -> None:
        now = self._engine.clock.now()
        self._ordered[stage_input.sequence] = (now, stage_input.micro_batch_id)
        self._pipeline.submit(stage_input)
        if stage_input.sequence % _MESSAGES_PER_LOOK == 0:
            self.looks.append(self._look(now))

    def collect(self, timeout_seconds: float) -> Sequence[ExecutorEvent]:
        events = self._pipeline.collect(timeout_seconds)
        self._note(event for event in events if isinstance(event, StageReport))
        return events

    def drain(self) -> None:
        self._pipeline.drain()

    def park(self, timeout_seconds: float) -> None:
        self._pipeline.park(timeout_seconds)

    def _note(self, reports: Iterable[StageReport]) -> None:
        sequence = -1
        for report in reports:
            sequence = report.sequence
            if sequence < 0:
                continue
            ordered, micro_batch_id = self._ordered[sequence]
            begin = max(self._free[report.stage], ordered)
            start = begin + report.stall_seconds + report.wait_seconds
            self._free[report.stage] = end = start + report.compute_seconds
            if report.num_tokens:
                self.turns.append(
                    Turn(
                        report.stage,
                        micro_batch_id,
                        start,
                        end,
                        report.stall_seconds,
                        report.wait_seconds,
                        report.num_tokens,
                    )
                )
        self._ordered.pop(sequence, None)

    def _look(self, now: float) -> Look:
        statistics = self._engine.statistics
        used = {
            tier.tier: tier.num_used / max(1, tier.num_used + tier.num_cached + tier.num_free)
            for tier in statistics.occupancy
        }
        return Look(now, statistics.num_running, statistics.num_waiting, used)


def record(settings: SimulationSettings, workload: Workload) -> tuple[SimulationResult, Timeline]:
    """Simulate and keep everything: about 100 bytes for each message and stage. For policies of our
    engine. Raises RequestError if a request can never run."""
    simulation = Simulation(settings, workload)
    recorder = _Recorder(simulation.pipeline, simulation.engine, link_speeds(settings.node))
    simulation.engine.executor = recorder
    result = simulation.run()
    timeline = Timeline(
        settings.geometry.num_stages,
        result.seconds,
        tuple(recorder.turns),
        tuple(recorder.uses),
        tuple(recorder.looks),
    )
    return result, timeline


def busy_shares(spans: Iterable[tuple[float, float]], seconds: float, num_bins: int) -> list[float]:
    """Of each of ``num_bins`` equal parts of the run: the share that the spans cover. They do not
    overlap."""
    width = seconds / num_bins
    covered = [0.0] * num_bins
    for begin, end in spans:
        first, last = int(begin / width), min(num_bins - 1, int(end / width))
        for number in range(min(first, num_bins - 1), last + 1):
            left, right = max(begin, number * width), min(end, (number + 1) * width)
            covered[number] += max(0.0, right - left)
    return [min(1.0, share / width) for share in covered]


def stage_shares(timeline: Timeline, stage: int, num_bins: int) -> list[float]:
    """Share of the time in which ``stage`` computes."""
    spans = ((turn.begin, turn.end) for turn in timeline.turns if turn.stage == stage)
    return busy_shares(spans, timeline.seconds, num_bins)


def link_shares(
    timeline: Timeline, source: Tier, target: Tier, num_bins: int, stage: int = 0
) -> list[float]:
    """Share of the time in which that link of ``stage`` carries data."""
    spans = (
        (use.begin, use.end)
        for use in timeline.link_uses
        if use.stage == stage and (use.source, use.target) == (source, target)
    )
    return busy_shares(spans, timeline.seconds, num_bins)


def tier_shares(timeline: Timeline, tier: Tier, num_bins: int) -> list[float]:
    """How full the tier was, by the last look before each part's end."""
    shares, current, looks = [], 0.0, list(reversed(timeline.looks))
    for number in range(num_bins):
        edge = (number + 1) * timeline.seconds / num_bins
        while looks and looks[-1].seconds <= edge:
            current = looks.pop().used.get(tier, 0.0)
        shares.append(current)
    return shares
