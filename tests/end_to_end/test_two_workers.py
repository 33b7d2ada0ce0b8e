"""Real workers at the same time on one job and one output."""

from __future__ import annotations

import contextlib
import signal

import pytest
from kit.jobs import JobFolder, answer_text, text_lines
from kit.processes import RunningJob

NUM_FILES = 6
LINES_PER_FILE = 8
SPEC = {"sampling": {"temperature": 0, "maxTokens": 40}}
SLOW = {"engine.maxNumRequests": 1, "engine.lookAhead": 4}


@pytest.fixture
def shared_job(job: JobFolder) -> JobFolder:
    """48 requests in six files, each of which is a range."""
    for number in range(NUM_FILES):
        job.write_input(text_lines(LINES_PER_FILE, f"{number}-"), f"{number}.jsonl")
    return job


@pytest.fixture
def expected(shared_job: JobFolder) -> dict[str, str]:
    """The answers of one worker."""
    shared_job.write(SPEC | {"output": {"uri": "alone"}})
    assert shared_job.run("--quiet") == 0
    (shared_job.folder / "alone").rename(shared_job.output)
    answers = {name: answer_text(record) for name, record in shared_job.by_id().items()}
    shared_job.output.rename(shared_job.folder / "alone")
    shared_job.write(SPEC | SLOW)
    return answers


def check(job: JobFolder, expected: dict[str, str]) -> None:
    """Every line has one record with its answer."""
    assert {name: answer_text(record) for name, record in job.by_id().items()} == expected
    assert (job.output / "manifest.json").exists()


def test_two_workers_share_a_job(shared_job: JobFolder, expected: dict[str, str]) -> None:
    with RunningJob(shared_job) as one, RunningJob(shared_job) as other:
        assert one.end() == 0, one.said
        assert other.end() == 0, other.said
    check(shared_job, expected)


def test_whoever_comes_later_takes_over_from_one_that_was_killed(
    shared_job: JobFolder, expected: dict[str, str]
) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RunningJob(shared_job, hold="requests", at=3))
        first.wait_for_requests(3)
        second = stack.enter_context(RunningJob(shared_job))
        second.progress()  # it is on its way; whether it has a range by now is left to chance
        first.process.kill()
        assert first.end() == -signal.SIGKILL
        third = stack.enter_context(RunningJob(shared_job))
        assert second.end() == 0, second.said
        assert third.end() == 0, third.said
        first.wait_until_gone()
    check(shared_job, expected)
