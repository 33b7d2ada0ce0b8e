"""Pipelines that die of certain requests, over and over, and the engine that gets over it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence

from kit.engine import Harness
from kit.executor import SimulatedExecutor
from kit.simulated_stage import SimulatedStage
from pipemax_worker.contract.messages import StageDied, StageInput
from pipemax_worker.contract.request import FinishedRequest, RecordKey, Request, StopChecker
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.engine import Engine
from pipemax_worker.runner.recovering_engine import RecoveringEngine
from pipemax_worker.runner.restart import RestartablePipeline
from pipemax_worker.runner.session import Session

Deadly = Callable[[Sequence[int]], bool]
"""Whether a stage dies when it computes these tokens, all positions of a request so far."""


class PoisonedExecutor(SimulatedExecutor):
    """``stage_of_death`` dies instead of computing a deadly text. It may lose its last report."""

    def __init__(
        self,
        config: SchedulerConfig,
        is_deadly: Deadly,
        seed: int,
        exit_code: int,
        loses_reports: bool = False,
    ) -> None:
        geometry = config.geometry
        super().__init__(
            geometry.num_stages,
            geometry.block_tokens,
            seed=seed,
            max_batched_tokens=config.max_batched_tokens,
        )
        self._is_deadly = is_deadly
        self._exit_code = exit_code
        self._loses_reports = loses_reports
        self._is_dead = False
        self._stage_of_death = self.random.randrange(geometry.num_stages)

    def submit(self, stage_input: StageInput) -> None:
        super().submit(stage_input)
        if self._is_dead:
            self.stages[self._stage_of_death].messages.clear()

    def _forward(self, stage: SimulatedStage) -> None:
        rows = stage.messages[0].scheduled
        is_deadly = stage.index == self._stage_of_death and any(
            self._is_deadly(
                self.texts[row.request_id].token_ids[: row.num_computed_tokens + row.num_new_tokens]
            )
            for row in rows
        )
        if is_deadly:
            self._die(stage)
        else:
            super()._forward(stage)

    def _die(self, stage: SimulatedStage) -> None:
        self._is_dead = True
        last_sequence = stage.last_forwarded
        if self._loses_reports and stage.outbox and last_sequence >= 0:
            lost = [event for event in stage.outbox if event.sequence == last_sequence]  # type: ignore[union-attr]
            for event in lost:
                stage.outbox.remove(event)
            last_sequence -= bool(lost)
        stage.messages.clear()
        stage.pending_copies.clear()
        stage.landed.clear()
        stage.is_started = False
        stage.outbox.append(
            StageDied(
                stage.index,
                self._exit_code,
                last_sequence,
                message=f"stage {stage.index} fell over",
            )
        )


class PoisonedEngine:
    """A ``RecoveringEngine`` whose pipelines all die of the same texts."""

    def __init__(
        self,
        config: SchedulerConfig,
        is_deadly: Deadly,
        *,
        exit_code: int = -11,
        seed: int = 0,
        loses_reports: bool = False,
        make_stop_checker: Callable[[RecordKey, int], StopChecker | None] = lambda *_: None,
    ) -> None:
        self.config = config
        self.is_deadly = is_deadly
        self.said: list[str] = []
        self.harness = Harness(config)
        self.num_open = 0
        self.num_opened = 0
        self._exit_code = exit_code
        self._seed = seed
        self._loses_reports = loses_reports
        self.pipeline = RestartablePipeline(self._open, self.said.append)
        self.pipeline.__enter__()
        self.engine = RecoveringEngine(self.pipeline, make_stop_checker, self.said.append)
        self.seen: list[EngineStatistics] = []

    @contextlib.contextmanager
    def _open(self) -> Iterator[Session]:
        self.num_opened += 1
        harness = Harness(self.config)
        executor = PoisonedExecutor(
            self.config,
            lambda text: self.is_deadly(text),
            self._seed + self.num_opened,
            self._exit_code,
            self._loses_reports,
        )
        engine = Engine(executor, harness.scheduler, harness.clock, timeout_seconds=0.01)
        self.num_open += 1
        assert self.num_open == 1, "the old pipeline is gone before the new one starts"
        yield Session(engine, self.config.geometry, ())
        self.num_open -= 1

    def run(
        self, requests: Sequence[Request] = (), max_steps: int = 100_000
    ) -> dict[tuple[int, int], FinishedRequest]:
        """Add ``requests`` and step until nothing is left; results by (offset, choice)."""
        for request in requests:
            self.engine.add_request(request)
        results: dict[tuple[int, int], FinishedRequest] = {}
        for _ in range(max_steps):
            if not self.engine.has_unfinished_requests:
                return results
            for finished in self.engine.step():
                name = (finished.key.offset, finished.choice)
                assert name not in results, "returned twice"
                results[name] = finished
            self.seen.append(self.engine.statistics)
        raise AssertionError(f"not finished after {max_steps} steps")


def poison_prompts(
    requests: Sequence[Request], poisons: Sequence[int], token_id: int
) -> list[Request]:
    """The same requests, and ``token_id`` somewhere in the prompts of ``poisons``."""
    generator = random.Random(7)
    changed = []
    for request in requests:
        prompt = list(request.prompt_token_ids)
        if request.key.offset in poisons:
            prompt.insert(generator.randint(0, len(prompt)), token_id)
        changed.append(
            Request(request.key, request.choice, tuple(prompt), request.sampling, request.seed)
        )
    return changed
