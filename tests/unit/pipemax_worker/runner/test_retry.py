"""`pipemax run --retry-failed`: what failed or is missing is run again, nothing else, and every
line has one record in the end, also for somebody who just reads results/*.jsonl."""

import json
import os
import signal
from io import StringIO
from typing import Any

import pytest
from kit.fake_run import FakeSessions
from kit.flaky_engine import FlakyEngine
from kit.jobs import JobFolder, error_code, text_lines
from pipemax_worker.contract.request import Request
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.manifest import Manifest, read_manifest
from pipemax_worker.dataset.results import iterate_results
from pipemax_worker.errors import StoppedError, TooManyFailuresError
from pipemax_worker.runner import run as run_module
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.run import run_job

NUM_LINES = 40
NUM_FILES = 4


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FlakyEngine:
    """Every run of the test has it: what it has seen is what was computed."""
    engine = FlakyEngine()
    monkeypatch.setattr(run_module, "open_session", FakeSessions(engine))
    return engine


@pytest.fixture
def job(job: JobFolder) -> JobFolder:
    """Forty lines in four files; the first of each file is no JSON."""
    for number in range(NUM_FILES):
        lines = text_lines(NUM_LINES // NUM_FILES - 1, f"{number}-")
        lines = [b" " * index + line for index, line in enumerate(lines)]  # offsets of all kinds
        job.write_input([b"no json", *lines], f"{number}.jsonl")
    return job


def run(job: JobFolder, retry: bool = False, changes: dict[str, Any] | None = None) -> str:
    options = RunOptions(retry_failed=retry, quiet=True)
    return run_job(job.write(changes), options, StringIO())


def every_third(request: Request) -> bool:
    return request.key.offset % 3 == 0


def keys(job: JobFolder) -> list[tuple[str, int]]:
    return [(one["pipemax"]["file"], one["pipemax"]["offset"]) for one in job.records()]


def successes(job: JobFolder) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (one["pipemax"]["file"], one["pipemax"]["offset"]): one
        for one in job.records()
        if not one["error"]
    }


def failed_ids(job: JobFolder) -> set[str | None]:
    return {record["custom_id"] for record in job.records() if record["error"]}


def manifest_of(job: JobFolder) -> Manifest:
    manifest = read_manifest(LocalStore(job.output))
    assert manifest is not None
    return manifest


def check_whole(job: JobFolder) -> None:
    """Every line has one record; errors/, manifest and `results` say the same."""
    assert len(keys(job)) == len(set(keys(job))) == NUM_LINES
    failed = [json.dumps(one, sort_keys=True) for one in job.records() if one["error"]]
    copies = [
        json.dumps(json.loads(line), sort_keys=True)
        for path in (job.output / "errors").glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    assert sorted(copies) == sorted(failed)
    manifest = manifest_of(job)
    assert (manifest.counts.num_records, manifest.counts.failed) == (NUM_LINES, len(failed))
    assert sum(manifest.failed_codes.values()) == len(failed)
    for segment in manifest.segments:
        assert (job.output / segment.key).stat().st_size == segment.size_bytes
    assert sum(segment.num_records for segment in manifest.segments) == NUM_LINES
    store = LocalStore(job.output)
    for ordered in (True, False):
        assert len(list(iterate_results(store, ordered))) == NUM_LINES


def test_what_failed_is_run_again_and_nothing_else(job: JobFolder, engine: FlakyEngine) -> None:
    engine.fails = every_third
    run(job)
    first, failed = successes(job), failed_ids(job)
    assert 5 < len(failed) < 30
    assert manifest_of(job).failed_codes.keys() == {"stage_died", "invalid_json"}
    engine.seen.clear()
    engine.fails = lambda _: False
    summary = run(job, retry=True)
    assert "CompletedWithErrors" in summary, "what is no JSON fails again"
    num_failed = NUM_LINES - len(first)
    assert len(engine.seen) == num_failed - NUM_FILES
    assert failed_ids(job) == {None}
    check_whole(job)
    after = successes(job)
    assert {key: after[key] for key in first} == first, "what succeeded is left alone"
    retried = {key: record for key, record in after.items() if key not in first}
    assert {record["pipemax"]["retry"] for record in retried.values()} == {1}
    assert manifest_of(job).num_retries == 1
    assert manifest_of(job).failed_codes == {"invalid_json": NUM_FILES}


def test_nothing_failed(job: JobFolder, engine: FlakyEngine) -> None:
    for number in range(NUM_FILES):
        job.write_input(text_lines(NUM_LINES // NUM_FILES, f"{number}-"), f"{number}.jsonl")
    run(job)
    summary = run(job, retry=True)
    assert "every request already has a record; nothing to do\n" in summary
    assert not (job.output / "ledger" / "retries").exists()


def test_a_finished_job_says_what_would_run_the_failed_ones_again(
    job: JobFolder, engine: FlakyEngine
) -> None:
    run(job)
    summary = run(job)
    assert "nothing to do; 4 failed: --retry-failed runs them again" in summary


def test_retry_after_retry(job: JobFolder, engine: FlakyEngine) -> None:
    engine.fails = lambda _: True
    run(job)
    for number in range(1, 4):
        engine.fails = lambda request: request.key.offset % 4 < 3
        if number == 3:
            engine.fails = lambda _: False
        run(job, retry=True)
        check_whole(job)
        assert manifest_of(job).num_retries == number
        assert all(one["pipemax"]["retry"] == number for one in job.records() if one["error"]), (
            "whatever failed has failed in the newest one"
        )
    assert failed_ids(job) == {None}
    assert "nothing to do" in run(job)


@pytest.mark.parametrize("goes_on_with_flag", [False, True])
def test_a_killed_retry_goes_on(
    job: JobFolder, engine: FlakyEngine, goes_on_with_flag: bool
) -> None:
    engine.fails = every_third
    run(job)
    num_failed = len([one for one in job.records() if one["error"]])
    engine.seen.clear()
    engine.fails = lambda _: False
    engine.per_step = 1
    engine.failure, engine.fails_after = RuntimeError("killed"), engine.num_steps + 5
    with pytest.raises(RuntimeError, match="killed"):
        run(job, retry=True)
    assert not (job.output / "manifest.json").exists(), "the job is not finished"
    assert len(engine.seen) > 5
    engine.failure = None
    engine.waiting.clear()
    engine.seen.clear()
    run(job, retry=goes_on_with_flag)
    assert 0 < len(engine.seen) <= num_failed - NUM_FILES - 5
    check_whole(job)
    assert manifest_of(job).num_retries == 1, "the same retry"
    assert failed_ids(job) == {None}


def test_readers_see_one_record_a_key_while_the_retry_is_under_way(
    job: JobFolder, engine: FlakyEngine
) -> None:
    engine.fails = every_third
    run(job)
    store = LocalStore(job.output)
    numbers = []

    def look(_: int) -> None:
        for ordered in (True, False):
            found = [json.loads(line) for line in iterate_results(store, ordered)]
            assert len(found) == NUM_LINES
            assert len({(one["pipemax"]["file"], one["pipemax"]["offset"]) for one in found}) == 40
            if ordered:
                places = [(one["pipemax"]["file"], one["pipemax"]["offset"]) for one in found]
                assert places == sorted(places)
        numbers.append(sum(error_code(one) == "stage_died" for one in found))

    engine.fails = lambda _: False
    engine.on_step = look
    run(job, retry=True)
    assert numbers[0] > numbers[-1]


def test_an_unfinished_job(job: JobFolder, engine: FlakyEngine) -> None:
    """What failed before it was stopped is run again too, not only what is missing."""
    engine.fails = lambda _: True
    engine.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None
    with pytest.raises(StoppedError):
        run(job, changes={"engine.lookAhead": 4})
    had = len(job.records())
    assert NUM_FILES < had < NUM_LINES
    engine.on_step = lambda _: None
    engine.fails = lambda _: False
    engine.waiting.clear()
    run(job, retry=True)
    check_whole(job)
    assert failed_ids(job) == {None}


def test_a_hopeless_job_is_tried_again_from_scratch(job: JobFolder, engine: FlakyEngine) -> None:
    """errorPolicy ends the job early; with the cause removed, --retry-failed is not ended by what
    failed before, as often as it takes."""
    policy = {"errorPolicy": {"maxFailedCount": 8}, "engine.lookAhead": 4}
    engine.fails = lambda _: True
    for attempt in range(3):
        with pytest.raises(TooManyFailuresError, match=r"x stage_died, \d x invalid_json"):
            run(job, retry=attempt > 0, changes=policy)
        engine.waiting.clear()
    with pytest.raises(TooManyFailuresError):
        run(job, changes=policy)
    engine.waiting.clear()
    engine.fails = lambda _: False
    run(job, retry=True, changes=policy)
    check_whole(job)
    assert manifest_of(job).num_retries == 3


def test_a_retry_that_fails_by_policy_at_its_end_has_its_manifest(
    job: JobFolder, engine: FlakyEngine
) -> None:
    strict = {"errorPolicy": {"maxFailedPercent": 5}}
    with pytest.raises(TooManyFailuresError, match="4 of 40"):
        run(job, changes=strict)
    with pytest.raises(TooManyFailuresError, match=r"4 of 40 .* 4 x invalid_json"):
        run(job, retry=True, changes=strict)
    check_whole(job)
    assert manifest_of(job).num_retries == 1


def test_two_runs_retry_together(
    job: JobFolder, engine: FlakyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.fails = lambda _: True
    run(job)
    engine.fails = lambda _: False
    engine.seen.clear()
    rival = FlakyEngine()
    begun = []

    def start_rival(_: int) -> None:
        if not begun:
            begun.append(True)
            with monkeypatch.context() as patch:
                patch.setattr(run_module, "open_session", FakeSessions(rival))
                patch.setattr(run_module, "name_this_worker", lambda: "rival")
                rival.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step else None
                with pytest.raises(StoppedError):
                    run(job, retry=True, changes={"engine.lookAhead": 4})

    engine.on_step = start_rival
    run(job, retry=True, changes={"engine.lookAhead": 4})
    assert rival.seen
    check_whole(job)
    assert manifest_of(job).num_retries == 1
