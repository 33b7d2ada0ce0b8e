"""The collector: choices wait for their siblings, ranges are closed when complete."""

import json
from typing import Any

import pytest
from kit.fake_reading import Reading
from kit.fake_run import finish
from kit.jobs import JobFolder, text_line, text_lines
from kit.store import FailingStore
from pipemax_worker.contract.request import FinishReason
from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.errors import OutputError


def records(reading: Reading) -> list[dict[str, Any]]:
    keys = reading.store.list(RESULTS_PREFIX)
    return [json.loads(line) for key in keys for line in reading.store.get(key).splitlines()]


def test_a_line_is_recorded_when_its_last_choice_has_finished(job: JobFolder) -> None:
    job.write_input([text_line("a", n=3)])
    reading = Reading(job)
    reading.feed.fill(reading.engine)
    last, first, second = (reading.engine.seen[index] for index in (2, 0, 1))
    reading.collector.add_finished([finish(last, (43,)), finish(first, (44,))])
    reading.collector.flush(everything=True)
    assert not records(reading)
    assert reading.collector.num_pending == 1
    reading.collector.add_finished([finish(second, (45,))])
    reading.collector.flush(everything=True)
    (record,) = records(reading)
    choices = record["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({choice["text"] for choice in choices}) == 3
    assert reading.collector.num_pending == 0


def test_choices_that_finish_in_reverse(job: JobFolder) -> None:
    job.write_input([text_line(f"r{index}", n=2) for index in range(9)])
    reading = Reading(job, look_ahead=100)
    reading.engine.reverse = True
    reading.run()
    assert len(records(reading)) == 9
    assert reading.ledger.is_finished


def test_a_choice_that_failed_fails_the_line(job: JobFolder) -> None:
    job.write_input([text_line("a", n=2)])
    reading = Reading(job)
    reading.feed.fill(reading.engine)
    one, other = reading.engine.seen
    reading.collector.add_finished(
        [finish(one), finish(other, reason=FinishReason.ERROR, error_code="internal_error")]
    )
    reading.collector.flush()
    (record,) = records(reading)
    assert record["response"] is None
    assert record["error"]["code"] == "internal_error"
    assert dict(reading.collector.failed_reasons) == {"internal_error": 1}
    assert reading.collector.counts.failed == 1
    assert reading.store.list("errors/")


def test_a_complete_range_is_closed_without_waiting(job: JobFolder) -> None:
    path = job.write_input(text_lines(3))
    reading = Reading(job)
    reading.run()
    assert reading.ledger.is_finished
    (summary,) = reading.ledger.summaries()
    assert summary.counts.completed == 3
    assert summary.counts.completion_tokens == 9
    assert reading.collector.bytes_done == path.stat().st_size
    assert reading.collector.bytes_in_progress == 0
    assert reading.collector.open_ranges == set()


def test_records_are_written_when_they_are_ten_seconds_old(job: JobFolder) -> None:
    job.write_input(text_lines(12))
    reading = Reading(job, look_ahead=4)
    reading.turn()
    assert not records(reading)
    assert reading.collector.bytes_in_progress > 0
    reading.clock.seconds += 10.0
    reading.collector.flush()
    assert len(records(reading)) == 4


def test_records_survive_a_store_that_fails_for_a_while(job: JobFolder) -> None:
    job.write_input(text_lines(3))
    store = FailingStore()
    reading = Reading(job, store)
    reading.feed.fill(reading.engine)
    reading.collector.add_finished(reading.engine.step())
    store.is_failing = True
    with pytest.raises(OutputError):
        reading.collector.flush()
    store.is_failing = False
    reading.collector.flush()
    assert len(records(reading)) == 3
    assert reading.ledger.is_finished


def test_the_counts_hold_what_an_earlier_run_has_left(job: JobFolder) -> None:
    job.write_input([b"no json", *text_lines(7)])
    first = Reading(job, look_ahead=4)
    first.turn()
    first.collector.flush(everything=True)
    second = Reading(job, first.store)
    second.run()
    assert second.collector.counts.completed == 7
    assert second.collector.counts.failed == 1
    assert not second.collector.failed_reasons


def test_an_empty_range_is_complete_once_it_is_read(job: JobFolder) -> None:
    job.write_input([b"", b""])
    reading = Reading(job)
    reading.run()
    assert reading.ledger.is_finished
    assert not records(reading)
