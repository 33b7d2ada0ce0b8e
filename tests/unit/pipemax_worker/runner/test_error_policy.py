"""errorPolicy over a whole run: by one worker, by several, with the worst reasons first."""

from __future__ import annotations

import os
import signal
from io import StringIO
from typing import Any

import pytest
from kit.fake_run import FakeSessions
from kit.flaky_engine import FlakyEngine
from kit.jobs import JobFolder, text_line, text_lines
from pipemax_worker.contract.clock import Clock
from pipemax_worker.dataset.claims import ClaimLimits, RangeClaims
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.manifest import read_manifest
from pipemax_worker.errors import StoppedError, TooManyFailuresError
from pipemax_worker.runner import run as run_module
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.run import run_job

EAGER = ClaimLimits(refresh_seconds=0.01, waiting_refresh_seconds=0.01, min_cost_ratio=0.0)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FlakyEngine:
    engine = FlakyEngine(per_step=100)
    monkeypatch.setattr(run_module, "open_session", FakeSessions(engine))
    return engine


def run(job: JobFolder, policy: dict[str, Any], **changes: Any) -> str:
    job_file = job.write({"errorPolicy": policy} | changes)
    return run_job(job_file, RunOptions(quiet=True), StringIO())


def test_a_hopeless_job_ends_early(job: JobFolder, engine: FlakyEngine) -> None:
    job.write_input(text_lines(5000))
    engine.fails = lambda request: request.key.offset % 10 == 0
    with pytest.raises(TooManyFailuresError, match=r"of \d{4} .* 1 %: \d+ x stage_died"):
        run(job, {"maxFailedPercent": 1})
    assert 1000 <= len(job.records()) < 5000


def test_not_by_the_first_few(job: JobFolder, engine: FlakyEngine) -> None:
    """The first 90 fail, which is 3 % of all in the end."""
    lines = text_lines(3000)
    job.write_input(lines)
    num_bytes = sum(len(line) + 1 for line in lines[:90])
    engine.fails = lambda request: request.key.offset < num_bytes
    run(job, {"maxFailedPercent": 10})
    assert len(job.records()) == 3000


def test_the_worst_reasons_come_first(job: JobFolder, engine: FlakyEngine) -> None:
    bad = [b"no json"] * 4 + [text_line(f"m{n}", model="gpt-4") for n in range(9)] + [b"{}"]
    job.write_input([*bad, *text_lines(20)])
    with pytest.raises(TooManyFailuresError) as caught:
        run(job, {"maxFailedPercent": 0})
    assert "14 of 34 requests failed" in str(caught.value)
    assert "9 x model_not_found, 4 x invalid_json, 1 x missing_field" in str(caught.value)
    with pytest.raises(TooManyFailuresError, match="9 x model_not_found, 4 x invalid_json"):
        run(job, {"maxFailedPercent": 0})


def test_reasons_of_earlier_runs_are_named(job: JobFolder, engine: FlakyEngine) -> None:
    """Of ranges that are done, and of one that was broken off."""
    job.write_input([b"no json", *text_lines(3)], "1.jsonl")
    job.write_input([b"no json", text_line("m", model="gpt-4"), *text_lines(30)], "2.jsonl")
    engine.per_step = 1
    engine.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 10 else None
    with pytest.raises(StoppedError):
        run(job, {"maxFailedCount": 3}, **{"engine.lookAhead": 2})
    engine.waiting.clear()
    with pytest.raises(TooManyFailuresError, match="2 x invalid_json, 1 x model_not_found"):
        run(job, {"maxFailedCount": 2})


def test_a_worker_does_not_judge_the_job_by_its_own_share(
    job: JobFolder, engine: FlakyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its one range has 4 failures of 10, the job 4 of 40, by all workers."""

    def claim_eagerly(ledger: Ledger, worker: str, clock: Clock, *_: object, **more: Any) -> Any:
        return RangeClaims(ledger, worker, clock, EAGER, **more)

    monkeypatch.setattr(run_module, "RangeClaims", claim_eagerly)
    for number in range(4):
        bad = [b"no json"] * 4 if number == 0 else []
        job.write_input([*bad, *text_lines(10 - len(bad), f"{number}-")], f"{number}.jsonl")
    rival = FlakyEngine(per_step=100)
    rival.on_step = lambda _: os.kill(os.getpid(), signal.SIGINT)
    begun = []

    def start_rival(_: int) -> None:
        if not begun:
            begun.append(True)
            with monkeypatch.context() as patch:
                patch.setattr(run_module, "open_session", FakeSessions(rival))
                patch.setattr(run_module, "name_this_worker", lambda: "rival")
                with pytest.raises(StoppedError):
                    run(job, {"maxFailedPercent": 20})

    engine.on_step = start_rival
    run(job, {"maxFailedPercent": 20}, **{"engine.lookAhead": 1})
    assert {request.key.file for request in engine.seen} == {"0.jsonl"}
    assert len(rival.seen) == 30
    with pytest.raises(TooManyFailuresError, match="4 of 40"):
        run(job, {"maxFailedPercent": 9})
    manifest = read_manifest(LocalStore(job.output))
    assert manifest is not None
    assert manifest.failed_codes == {"invalid_json": 4}
