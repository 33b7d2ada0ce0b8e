"""`spec.resumeFrom`: what succeeded at another place is copied, the rest is run."""

import shutil
from io import StringIO
from typing import Any

import pytest
from kit.fake_run import FakeSessions
from kit.flaky_engine import FlakyEngine
from kit.jobs import JobFolder, text_lines
from pipemax_worker.dataset.chain import segment_key
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.manifest import read_manifest
from pipemax_worker.errors import InputNotFoundError, JobFileError, LedgerMismatchError
from pipemax_worker.runner import run as run_module
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.run import run_job
from pipemax_worker.runner.validation import validate_job

NUM_LINES = 30
RESUME = {"resumeFrom": "first"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FlakyEngine:
    engine = FlakyEngine()
    monkeypatch.setattr(run_module, "open_session", FakeSessions(engine))
    return engine


@pytest.fixture
def resumed(job: JobFolder, engine: FlakyEngine) -> JobFolder:
    """An earlier job whose output is ``first``: of three files two have failed, or in part."""
    for number in range(3):
        job.write_input(text_lines(NUM_LINES // 3, f"{number}-"), f"{number}.jsonl")
    engine.fails = lambda request: request.key.file == "1.jsonl" or request.key.offset == 0
    run(job, {"output.uri": "first"})
    engine.fails = lambda _: False
    engine.seen.clear()
    return job


def run(job: JobFolder, changes: dict[str, Any], **options: Any) -> str:
    return run_job(job.write(changes), RunOptions(quiet=True, **options), StringIO())


def test_what_succeeded_is_copied_and_the_rest_is_run(
    resumed: JobFolder, engine: FlakyEngine
) -> None:
    before = {path: path.read_bytes() for path in (resumed.folder / "first").rglob("*.json*")}
    summary = run(resumed, RESUME)
    assert "requests  30 succeeded, 0 failed" in summary
    assert len(engine.seen) == 12
    assert len(resumed.by_id()) == NUM_LINES
    copied = [record for record in resumed.records() if record["pipemax"].get("copied")]
    assert len(copied) == NUM_LINES - 12
    manifest = read_manifest(LocalStore(resumed.output))
    assert manifest is not None
    assert (manifest.counts.completed, manifest.num_copied) == (NUM_LINES, 18)
    assert manifest.resumed_from == (str(resumed.folder / "first"),)
    assert all(path.read_bytes() == data for path, data in before.items()), "it is left as it was"


def test_the_new_place_stands_for_itself(resumed: JobFolder, engine: FlakyEngine) -> None:
    run(resumed, RESUME)
    shutil.rmtree(resumed.folder / "first")
    assert "nothing to do" in run(resumed, RESUME)


def test_a_killed_copy_goes_on(
    resumed: JobFolder, engine: FlakyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when a part of the copies is in the chain: nothing comes twice."""
    engine.failure, engine.fails_after = RuntimeError("killed"), engine.num_steps + 1
    with pytest.raises(RuntimeError):
        run(resumed, {**RESUME, "engine.lookAhead": 1})
    engine.failure = None
    engine.waiting.clear()
    assert 0 < len(resumed.records()) < NUM_LINES
    run(resumed, RESUME)
    assert len(resumed.by_id()) == NUM_LINES
    manifest = read_manifest(LocalStore(resumed.output))
    assert manifest is not None
    assert manifest.num_copied == 18


def test_copies_count_for_the_error_policy(resumed: JobFolder, engine: FlakyEngine) -> None:
    """Twelve are run and five of them fail: that is five of thirty."""
    engine.fails = lambda request: request.key.file == "1.jsonl" and request.key.offset > 600
    run(resumed, {**RESUME, "errorPolicy": {"maxFailedPercent": 30}})
    assert any(record["error"] for record in resumed.records())


def test_a_resumed_job_may_be_retried(resumed: JobFolder, engine: FlakyEngine) -> None:
    engine.fails = lambda _: True
    run(resumed, RESUME)
    engine.seen.clear()
    engine.fails = lambda _: False
    run(resumed, RESUME, retry_failed=True)
    assert len(engine.seen) == 12
    assert all(record["error"] is None for record in resumed.by_id().values())
    assert len(resumed.by_id()) == NUM_LINES


def test_a_resumed_job_may_be_resumed_from(resumed: JobFolder, engine: FlakyEngine) -> None:
    run(resumed, RESUME)
    engine.seen.clear()
    run(resumed, {"resumeFrom": "out", "output.uri": "third"})
    assert engine.seen == []
    manifest = read_manifest(LocalStore(resumed.folder / "third"))
    assert manifest is not None
    assert manifest.num_copied == NUM_LINES


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"resumeFrom": "out"}, JobFileError, "spec.resumeFrom: found the job's own output"),
        ({"resumeFrom": "./out/"}, JobFileError, "the job's own output"),
        ({"resumeFrom": "nowhere"}, InputNotFoundError, "nowhere: no job was started here"),
        ({**RESUME, "sampling.maxTokens": 9}, LedgerMismatchError, "maxTokens: was 8, is 9"),
        ({**RESUME, "input.uri": "0.jsonl"}, LedgerMismatchError, r"input 1\.jsonl: was"),
        ({**RESUME, "model.name": "other"}, LedgerMismatchError, 'was .*"tiny".*, is .*"other"'),
    ],
)
def test_what_is_refused_before_anything_starts(
    resumed: JobFolder,
    engine: FlakyEngine,
    changes: dict[str, Any],
    error: type[Exception],
    named: str,
) -> None:
    for command in (
        lambda: run(resumed, changes),
        lambda: validate_job(resumed.write(changes), {}, check_places=True, check_lines=False),
    ):
        with pytest.raises(error, match=named):
            command()
    assert engine.seen == []
    assert not (resumed.output / "ledger").exists()


def test_an_earlier_job_that_never_ended(resumed: JobFolder, engine: FlakyEngine) -> None:
    (resumed.folder / "first" / "ledger" / "done" / "00000000.json").unlink()
    (resumed.folder / "first" / segment_key(2, 0)).unlink()
    run(resumed, RESUME)
    assert len(engine.seen) == 12 + 9
    assert len(resumed.by_id()) == NUM_LINES
