"""Runs that are stopped and go on, with an engine in this process and a ledger that is none."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from kit.engine import Harness, make_config, make_geometry, random_requests
from kit.stops import Texts, move_nvme, texts_of
from pipemax_worker.contract.request import FinishedRequest, Request
from pipemax_worker.runner.nvme_folder import RunFolder
from pipemax_worker.runner.park_index import ParkIdentity
from pipemax_worker.runner.parked_requests import ParkedRequests
from pipemax_worker.runner.parking import JobParking
from pipemax_worker.runner.recovering_engine import RecoveringEngine
from pipemax_worker.runner.restart import RestartablePipeline
from pipemax_worker.runner.session import Session
from pipemax_worker.runner.signals import StopRequest

REQUESTS = random_requests(random.Random(3), 14, max_prompt=20, max_output=14, shared_heads=1)
CONFIG = make_config(make_geometry(num_stages=2, device=100, host=100, nvme=100))
IDENTITY = ParkIdentity("job", "model", "", "float32", "float32")
LEDGER = SimpleNamespace(job=SimpleNamespace(created_at="today"))


class FakeCollector:
    def __init__(self) -> None:
        self.texts: Texts = {}
        self.failure: Exception | None = None
        self.waiting: list[tuple[Request, FinishedRequest]] = []

    def waiting_choices(self) -> list[tuple[Request, FinishedRequest]]:
        return self.waiting

    def add_finished(self, finished: list[FinishedRequest]) -> None:
        self.texts |= texts_of(finished)

    def flush(self, everything: bool = False) -> None:
        if self.failure is not None:
            raise self.failure


class Life:
    """One run: what an earlier one has left in ``folder`` is taken up, if it is its own."""

    def __init__(
        self,
        folder: RunFolder | None,
        before: Life | None = None,
        adoption_fault: str | None = None,
    ) -> None:
        self.said: list[str] = []
        self.collector = FakeCollector()
        self.harness = Harness(CONFIG, seed=1 if before is None else 2)
        if before is not None:
            move_nvme(before.harness, self.harness)
        self.adoption_fault = adoption_fault
        self.parked_seconds: list[float] = []
        self.park_failure: Exception | None = None
        self.harness.executor.park = self._end_stages  # type: ignore[attr-defined]
        created_at = "" if before is None else "today"
        identity = ParkIdentity("job", "model", created_at, "float32", "float32")
        self.parked = ParkedRequests(folder, identity, self.said.append)
        self.parked.load()
        self._fits(before is not None)
        self.pipeline = RestartablePipeline(self._open, self.said.append)
        self.pipeline.__enter__()
        self.engine = RecoveringEngine(self.pipeline, lambda *_: None, self.said.append)

    def _fits(self, fits: bool) -> None:
        self.parked._fits = lambda settings: fits  # type: ignore[method-assign]

    def _end_stages(self, timeout_seconds: float) -> None:
        self.parked_seconds.append(timeout_seconds)
        if self.park_failure is not None:
            raise self.park_failure

    def _open(self) -> contextlib.AbstractContextManager[Session]:
        return self.parked.adopting(FakeSettings(), self._open_session)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _open_session(self, settings: Any) -> Iterator[Session]:
        stage = SimpleNamespace(adoption_fault=self.adoption_fault)
        yield Session(self.harness.engine, CONFIG.geometry, (stage,))  # type: ignore[arg-type]

    def add(self, requests: Any = REQUESTS) -> None:
        for request in requests:
            self.engine.add_request(request, None, self.parked.take(request))

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.collector.add_finished(self.engine.step())

    def run(self) -> None:
        while self.engine.has_unfinished_requests:
            self.steps(1)

    def stop(self, grace_seconds: float = 60.0) -> None:
        parking = JobParking(
            self.parked,
            LEDGER,  # type: ignore[arg-type]
            self.pipeline,
            self.engine,
            self.collector,  # type: ignore[arg-type]
            self.harness.clock,
            grace_seconds,
            self.said.append,
            worker="pod-0-boot-1-2",
        )
        parking.park(StopRequest())


class FakeSettings:
    """Settings that can be replaced: what is in them does not matter here."""

    def __init__(self) -> None:
        self.pipeline = self
