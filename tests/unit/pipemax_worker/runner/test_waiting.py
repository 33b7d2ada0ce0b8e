"""A run with nothing left to take waits for the others, takes over from the silent, and ends."""

import json
from collections.abc import Callable

import pytest
from kit.fake_reading import Reading
from kit.fake_run import RecordingDisplay, finish
from kit.jobs import JobFolder, text_line, text_lines
from pipemax_worker.errors import StageDiedError, StoppedError
from pipemax_worker.job.spec import ErrorPolicySpec
from pipemax_worker.runner.job_run import WAIT_SECONDS, JobRun
from pipemax_worker.runner.signals import StopRequest


class WaitingRun:
    """``while_asleep`` is called at each of its waits, which take their time on its clock."""

    def __init__(self, reading: Reading, while_asleep: Callable[[], None] = lambda: None) -> None:
        self.reading = reading
        self.while_asleep = while_asleep
        self.stop = StopRequest()
        self.display = RecordingDisplay()
        self.num_waits = 0
        self.run = JobRun(
            "reviews",
            reading.engine,  # type: ignore[arg-type]
            reading.feed,
            reading.collector,
            reading.ledger,
            self.display,
            reading.clock,
            "out",
            lambda _: None,
            self._sleep,
        )

    def start(self, deadline: int | None = None) -> None:
        self.run.run(self.stop, ErrorPolicySpec(), deadline)

    def _sleep(self, seconds: float) -> None:
        assert seconds == WAIT_SECONDS
        self.reading.clock.seconds += seconds
        self.num_waits += 1
        self.while_asleep()


@pytest.fixture
def other(job: JobFolder) -> Reading:
    """A worker that has taken the only range and is alive: it beats whenever its loop turns."""
    job.write_input(text_lines(12))
    reading = Reading(job, worker="other", look_ahead=4)
    reading.turn()
    return reading


def test_it_waits_while_the_other_works_and_ends_with_it(job: JobFolder, other: Reading) -> None:
    def other_works() -> None:
        other.clock.seconds += 1.0
        if run.num_waits > 1000:
            other.turn()
        else:
            other.feed.fill(other.engine)

    run = WaitingRun(Reading(job, other.store, worker="waiting"), other_works)
    run.start()
    assert run.reading.ledger.is_finished
    assert not run.reading.engine.seen, "it had nothing to do"
    assert run.num_waits > 1000
    assert run.run.snapshot.phase == "Complete"
    assert len(run.display.snapshots) > 500, "it goes on publishing"


def test_it_takes_over_from_one_that_falls_silent(job: JobFolder, other: Reading) -> None:
    run = WaitingRun(Reading(job, other.store, worker="waiting"))
    run.start()
    assert len(run.reading.offsets()) == len(set(run.reading.offsets())) == 12
    assert 60 <= run.num_waits * WAIT_SECONDS < 80
    other.run(turn_seconds=1.0)  # the sleeper wakes
    assert len(other.offsets()) == 12
    assert {head.pipemax.worker for head in other.heads()} == {"waiting"}


def test_a_stop_is_heard_while_it_waits(job: JobFolder, other: Reading) -> None:
    run = WaitingRun(Reading(job, other.store, worker="waiting"))
    run.while_asleep = lambda: run.stop.receive("SIGTERM") if run.num_waits == 3 else None
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        run.start()
    assert run.num_waits == 3


def test_the_deadline_counts_while_it_waits(job: JobFolder, other: Reading) -> None:
    run = WaitingRun(Reading(job, other.store, worker="waiting"))
    with pytest.raises(StoppedError, match=r"spec\.deadline"):
        run.start(deadline=2)


def test_a_stage_that_dies_is_noticed_while_it_waits(job: JobFolder, other: Reading) -> None:
    run = WaitingRun(Reading(job, other.store, worker="waiting"))
    run.reading.engine.failure, run.reading.engine.fails_after = StageDiedError("killed"), 5
    with pytest.raises(StageDiedError):
        run.start()


def test_who_failed_leaves_its_ranges_to_others_at_once(job: JobFolder) -> None:
    job.write_input(text_lines(12))
    failing = WaitingRun(Reading(job, worker="failing", look_ahead=4))
    failing.reading.engine.failure = StageDiedError("killed")
    failing.reading.engine.fails_after = 1
    with pytest.raises(StageDiedError):
        failing.start()
    run = WaitingRun(Reading(job, failing.reading.store, worker="next"))
    run.start()
    assert run.num_waits == 0


def test_who_was_stopped_is_given_time_to_come_back(job: JobFolder) -> None:
    """Its unfinished requests are parked on its node; another one would compute them again."""
    job.write_input(text_lines(12))
    stopped = WaitingRun(Reading(job, worker="stopped", look_ahead=4))
    stopped.reading.engine.on_step = lambda step: stopped.stop.receive("SIGTERM")
    with pytest.raises(StoppedError):
        stopped.start()
    run = WaitingRun(Reading(job, stopped.reading.store, worker="another"))
    run.start()
    assert run.num_waits * WAIT_SECONDS >= 60


def test_a_range_that_comes_back_is_not_answered_twice_by_one_choice(job: JobFolder) -> None:
    """Lost while its requests were in the engine, and taken again while they still are."""
    job.write_input([text_line("a", n=2)])
    worker = Reading(job)
    worker.feed.fill(worker.engine)
    first, second = worker.engine.seen
    worker.collector.add_finished([finish(first), finish(first)])
    assert worker.collector.num_pending == 1, "the other choice is still to come"
    worker.collector.add_finished([finish(second), finish(second)])
    worker.collector.flush(everything=True)
    (key,) = worker.store.list("results/")
    choices = json.loads(worker.store.get(key))["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
