"""How far a job is: it adds up over workers, never goes back, and is whole only at the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import pytest
from kit.inference_jobs import NOW, ended_pod, make_job, observe
from kit.progress import SNAPSHOT
from pipemax_operator.observed import JobCondition, ObservedJob, WorkerProgress
from pipemax_operator.outcome import Outcome, derive_outcome
from pipemax_operator.progress import (
    RangeTotals,
    final_progress,
    format_remaining,
    parse_progress,
    running_progress,
)
from pipemax_operator.status import build_status
from pipemax_worker.telemetry.progress import progress_as_json

CHILD = ObservedJob("uid-2", active=2, ready=2)


def worker(
    closed: int = 0, done: int = 0, read: int = 0, failed: int = 0, name: str = "pod", **more: Any
) -> WorkerProgress:
    """Of an input of 1,000 bytes with lines of ten: 100 requests."""
    return WorkerProgress(
        name,
        input_bytes=1000,
        closed=RangeTotals(closed, bytes_done=10 * closed, read=closed, bytes_read=10 * closed),
        open=RangeTotals(done, failed, bytes_done=10 * done, read=read, bytes_read=10 * read),
        **more,
    )


def told(*workers: WorkerProgress, before: dict[str, Any] | None = None) -> dict[str, Any]:
    found = running_progress(workers, before, NOW)
    assert found is not None
    return found


def test_the_workers_own_page_is_understood() -> None:
    """Both ends of ``/progress``, without a field that only one of them knows."""
    body = msgspec.json.decode(progress_as_json(SNAPSHOT, ledger_mark="5ee1"))
    found = parse_progress("pod", body)
    assert (found.closed.done, found.open.done) == (30, 10)
    assert (found.closed.prompt_tokens, found.open.generated_tokens) == (500, 60)
    assert (found.open.read, found.open.bytes_read, found.input_bytes) == (16, 108, 1000)
    assert found.remaining_seconds == 90.0
    assert found.swap_bytes["host-nvme"] == 5000
    assert found.ledger_mark == "5ee1"


def test_a_worker_that_loads_knows_nothing() -> None:
    starting = parse_progress("pod", {"phase": "Starting", "inputBytes": {"total": 1, "done": 0}})
    assert running_progress([starting], None, NOW) is None
    assert told(starting, worker(closed=20))["summary"] == "20/~100"
    assert running_progress([parse_progress("pod", {})], {"percent": "7%"}, NOW) == {
        "percent": "7%"
    }


def test_the_total_is_judged_by_what_was_read_not_by_what_is_done() -> None:
    assert told(worker(done=1, read=12))["summary"] == "1/~100"
    assert told(worker(done=1, read=100))["summary"] == "1/100", "all is read: the total is known"
    assert told(worker())["summary"] == "0"
    assert told(worker())["percent"] == "0%"


def test_what_several_workers_do_adds_up() -> None:
    found = told(
        worker(closed=40, done=3, read=8, failed=1, tokens_per_second=10.4),
        worker(closed=30, done=5, read=8, tokens_per_second=20.2),
    )
    assert (found["summary"], found["percent"]) == ("48/~100", "48%")
    assert (found["completed"], found["failed"]) == (47, 1)
    assert found["tokensPerSecond"] == 31


def test_it_never_goes_back() -> None:
    before = told(worker(closed=40, done=8, read=8))
    found = told(worker(closed=30, done=1, read=1), before=before)
    assert (found["completed"], found["percent"]) == (48, "48%")


def test_a_total_that_was_known_stays_known() -> None:
    before = told(worker(done=1, read=100))
    assert told(worker(closed=47), before=before)["summary"] == "47/100"
    guessed = told(worker(done=1, read=12), before=told(worker(closed=1, read=1)))
    assert guessed["summary"] == "1/~100"


def test_a_total_that_nobody_knew_does_not_stay() -> None:
    """The first look may find a worker that has opened the input and read nothing of it."""
    nothing = told(worker())
    assert (nothing["summary"], nothing["totalRequests"]) == ("0", 0)
    first = told(worker(done=1, read=4), before=nothing)
    assert (first["summary"], first["percent"]) == ("1/~100", "1%")


def test_it_is_whole_only_at_the_end() -> None:
    found = told(worker(closed=90, done=10, read=10))
    assert (found["summary"], found["percent"]) == ("100/100", "99%")
    counts = {"completed": 99, "failed": 1, "promptTokens": 7, "generatedTokens": 8}
    last = final_progress(counts, found, NOW)
    assert (last["summary"], last["percent"], last["failed"]) == ("100/100", "100%", 1)


def test_rates_of_workers_add_up_to_the_time_that_is_left() -> None:
    """Alone each would need 90 s for the 900 bytes that it knows to be left."""
    one = worker(closed=10, remaining_seconds=90.0)
    assert told(one)["estimatedCompletionTime"] == "2026-11-22T12:01:30Z"
    assert told(one)["remaining"] == "1m30s"
    assert told(one, one)["estimatedCompletionTime"] == "2026-11-22T12:00:45Z"
    assert told(one, one)["remaining"] == "45s"
    assert not {"estimatedCompletionTime", "remaining"} & set(told(worker(closed=10)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (44.6, "45s"),
        (59.7, "1m"),
        (750, "12m30s"),
        (3599, "59m59s"),
        (3600, "1h"),
        (3 * 3600 + 5 * 60 + 9, "3h5m"),
        (86_400 + 59, "1d"),
        (400 * 86_400 + 7200, "400d2h"),
    ],
)
def test_the_time_that_is_left_in_two_figures(seconds: float, text: str) -> None:
    assert format_remaining(seconds) == text


def test_nothing_is_written_when_only_time_has_passed() -> None:
    first = told(worker(closed=10, remaining_seconds=90.0))
    later = datetime(2026, 11, 22, 12, 0, 30, tzinfo=NOW.tzinfo)
    again = running_progress([worker(closed=10, remaining_seconds=90.0)], first, later)
    assert again is first


@pytest.mark.parametrize("phase", ["Suspended", "Pending", "Failed"])
def test_without_workers_there_is_no_rate(phase: str) -> None:
    before = told(worker(closed=48, tokens_per_second=54.0, remaining_seconds=10.0))
    observed = observe(CHILD, status={"progress": before})
    status = build_status(observed, Outcome(phase, "Reason", "words"), NOW)
    assert status["progress"]["summary"] == "48/~100"
    assert not {"tokensPerSecond", "estimatedCompletionTime", "remaining"} & set(status["progress"])
    running = build_status(observed, Outcome("Running", "WorkersRunning", "words"), NOW)
    assert running["progress"] is before, "a worker that was not heard once still runs"


def test_a_failed_index_does_not_hide_that_all_is_done() -> None:
    """The other worker has seen every record: the child Job has failed, the job is complete."""
    failed = replace(CHILD, conditions=(JobCondition("Failed", "True", "FailedIndexes"),))
    stopped = ended_pod(70, "InternalError")
    done = ended_pod(0, "Complete", {"completed": 100, "failed": 0})
    observed = observe(failed, stopped, done)
    outcome = derive_outcome(make_job(), observed, NOW)
    status = build_status(observed, outcome, NOW)
    assert (status["phase"], status["progress"]["summary"]) == ("Complete", "100/100")


def test_counts_of_a_worker_that_did_not_end_well_are_not_the_last_word() -> None:
    failed = replace(CHILD, conditions=(JobCondition("Failed", "True", "DeadlineExceeded"),))
    before = told(worker(closed=48))
    observed = observe(
        failed, ended_pod(75, "Stopped", {"completed": 50}), status={"progress": before}
    )
    status = build_status(observed, derive_outcome(make_job(), observed, NOW), NOW)
    assert (status["phase"], status["progress"]["percent"]) == ("Failed", "48%")
