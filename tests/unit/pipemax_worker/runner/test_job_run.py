"""The loop of a run: whatever ends it, what was finished is written, and the phase says how."""

import json
import urllib.error

import pytest
from kit.fake_reading import Reading
from kit.fake_run import RecordingDisplay
from kit.jobs import JobFolder, text_line, text_lines
from kit.store import FailingStore
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.errors import (
    OutputError,
    StageDiedError,
    StoppedError,
    TooManyFailuresError,
)
from pipemax_worker.job.spec import ErrorPolicySpec
from pipemax_worker.runner.job_run import JobRun
from pipemax_worker.runner.signals import StopRequest
from pipemax_worker.telemetry.progress import progress_as_json


class Run:
    """A run over a reading; ``steps`` are those it has observed."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.display = RecordingDisplay()
        self.steps: list[StepRecord] = []
        self.stop = StopRequest()
        self.run = JobRun(
            "reviews",
            reading.engine,  # type: ignore[arg-type]
            reading.feed,
            reading.collector,
            reading.ledger,
            self.display,
            reading.clock,
            "out",
            self.steps.append,
        )

    def start(self, deadline: int | None = None, **policy: float) -> None:
        self.run.run(self.stop, ErrorPolicySpec.model_validate(policy), deadline)

    @property
    def phases(self) -> list[str]:
        return [snapshot.phase for snapshot in self.display.snapshots]


def test_a_job_without_failures(job: JobFolder) -> None:
    path = job.write_input(text_lines(10))
    run = Run(Reading(job))
    run.start()
    last = run.run.snapshot
    assert (last.phase, last.num_done, last.num_failed) == ("Complete", 10, 0)
    assert last.input_bytes_done == last.input_bytes_total == path.stat().st_size
    assert last.num_in_flight == 0
    assert {one.estimated_num_requests for one in run.display.snapshots[1:]} == {10}
    assert last.closed_ranges.num_done == 10
    assert last.open_ranges.num_done == 0
    assert run.phases[0] == "Running"
    assert len(run.steps) == run.reading.engine.num_steps
    assert run.reading.ledger.is_finished


def test_a_job_with_failures(job: JobFolder) -> None:
    job.write_input([*text_lines(10), b"no json"])
    run = Run(Reading(job))
    run.start()
    last = run.run.snapshot
    assert (last.phase, last.num_done, last.num_failed) == ("CompletedWithErrors", 11, 1)
    assert last.failed_reasons == {"invalid_json": 1}


def test_a_stop_between_two_steps(job: JobFolder) -> None:
    job.write_input(text_lines(20))
    run = Run(Reading(job))
    run.reading.engine.on_step = lambda step: run.stop.receive("SIGTERM") if step == 2 else None
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        run.start()
    assert len(run.reading.offsets()) == 12, "the step that was running is finished and written"
    assert run.run.snapshot.phase == "Stopped"


def test_a_stop_before_the_first_step(job: JobFolder) -> None:
    job.write_input(text_lines(20))
    run = Run(Reading(job))
    run.stop.receive("SIGINT")
    with pytest.raises(StoppedError, match="SIGINT"):
        run.start()
    assert run.reading.engine.num_steps == 0


def test_the_deadline_keeps_what_is_done(job: JobFolder) -> None:
    job.write_input(text_lines(20))
    run = Run(Reading(job))

    def pass_time(_: int) -> None:
        run.reading.clock.seconds += 1.0

    run.reading.engine.on_step = pass_time
    with pytest.raises(StoppedError, match=r"spec\.deadline: 3 s have passed"):
        run.start(deadline=3)
    assert len(run.reading.offsets()) == 16
    assert run.run.snapshot.phase == "Stopped"


@pytest.mark.parametrize(
    "failure", [StageDiedError("stage 0 was killed"), urllib.error.URLError("a bug")]
)
def test_whatever_ends_it_what_is_finished_is_written(job: JobFolder, failure: Exception) -> None:
    job.write_input(text_lines(20))
    run = Run(Reading(job))
    run.reading.engine.failure, run.reading.engine.fails_after = failure, 3
    with pytest.raises(type(failure)):
        run.start()
    assert len(run.reading.offsets()) == 12
    assert run.run.snapshot.phase == "Failed"
    rest = Run(Reading(job, run.reading.store))
    rest.start()
    assert rest.run.snapshot.num_done == 20
    assert len(rest.reading.engine.seen) == 8


def test_a_flush_that_fails_does_not_hide_what_ended_the_run(job: JobFolder) -> None:
    job.write_input(text_lines(20))
    store = FailingStore()
    run = Run(Reading(job, store))
    run.reading.engine.failure, run.reading.engine.fails_after = StageDiedError("killed"), 2

    def break_store(step: int) -> None:
        store.is_failing = step == 2

    run.reading.engine.on_step = break_store
    with pytest.raises(StageDiedError):
        run.start()
    assert run.run.snapshot.phase == "Failed"


def test_an_output_that_fails_ends_the_run(job: JobFolder) -> None:
    job.write_input(text_lines(20))
    store = FailingStore()
    run = Run(Reading(job, store))

    def break_store(step: int) -> None:
        store.is_failing = step >= 1

    run.reading.engine.on_step = break_store
    with pytest.raises(OutputError):
        run.start()
    store.is_failing = False
    rest = Run(Reading(job, store))
    rest.start()
    assert len(rest.reading.offsets()) == len(set(rest.reading.offsets())) == 20


def test_too_many_failures_by_count_end_it_early(job: JobFolder) -> None:
    job.write_input([b"no json", b"no json", *text_lines(1000)])
    run = Run(Reading(job))
    with pytest.raises(TooManyFailuresError, match="2 x invalid_json"):
        run.start(maxFailedCount=1)
    assert run.reading.engine.num_steps < 250
    assert run.run.snapshot.phase == "Failed"


def test_too_many_failures_by_percent_are_judged_at_the_end(job: JobFolder) -> None:
    job.write_input([b"no json", *text_lines(9)])
    run = Run(Reading(job))
    with pytest.raises(TooManyFailuresError, match="1 of 10"):
        run.start(maxFailedPercent=9)
    assert run.reading.ledger.is_finished, "every line has its record all the same"
    again = Run(Reading(job))
    again.start(maxFailedPercent=10)


def test_failures_of_earlier_runs_count(job: JobFolder) -> None:
    job.write_input([b"no json", *text_lines(3)], "1.jsonl")
    job.write_input([b"no json", *text_lines(3)], "2.jsonl")
    first = Run(Reading(job, look_ahead=2))
    first.reading.engine.on_step = lambda step: first.stop.receive("SIGTERM") if step else None
    with pytest.raises(StoppedError):
        first.start(maxFailedCount=1)
    second = Run(Reading(job, first.reading.store))
    with pytest.raises(TooManyFailuresError, match="2 requests failed"):
        second.start(maxFailedCount=1)


def test_progress_of_a_continued_job_includes_what_is_done(job: JobFolder) -> None:
    for number in range(4):
        job.write_input([text_line("a"), text_line("b")], f"{number}.jsonl")
    first = Run(Reading(job, look_ahead=2))
    first.reading.engine.on_step = lambda step: first.stop.receive("SIGTERM") if step else None
    with pytest.raises(StoppedError):
        first.start()
    second = Run(Reading(job, first.reading.store))
    start = second.run.snapshot
    assert start.num_done == 2, (
        "of ranges that are done; the others' are counted when they are read"
    )
    assert 0 < start.fraction_done < 1
    assert start.remaining_seconds is None, "this run has no rate yet"
    second.start()
    assert second.run.snapshot.num_done == 8
    assert second.run.snapshot.fraction_done == 1.0


def test_snapshots_are_published_at_intervals(job: JobFolder) -> None:
    job.write_input(text_lines(40))
    run = Run(Reading(job))

    def pass_time(_: int) -> None:
        run.reading.clock.seconds += 0.1

    run.reading.engine.on_step = pass_time
    run.start()
    # 10 steps of 0.1 s: at 0.1, 0.4, 0.7, 1.0 and at the end
    assert run.phases == ["Running"] * 4 + ["Complete"]
    middle = run.display.snapshots[1]
    assert middle.num_done + middle.num_in_flight <= 40
    assert middle.tokens_per_second > 0
    assert json.loads(progress_as_json(middle))["requests"]["done"] == middle.num_done
