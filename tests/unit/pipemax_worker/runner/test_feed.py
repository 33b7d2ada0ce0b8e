"""The feed: lines become requests, faults become records, memory stays bounded."""

import gzip
import json

from kit.batch_lines import line_of
from kit.fake_reading import Reading
from kit.jobs import JobFolder, chat_line, error_code, text_line, text_lines
from kit.store import MemoryStore
from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.runner import feed as feed_module


def record_errors(store: MemoryStore) -> dict[str | None, str | None]:
    """custom_id -> error code of every record in the store."""
    lines = [line for key in store.list(RESULTS_PREFIX) for line in store.get(key).splitlines()]
    records = [json.loads(line) for line in lines]
    return {record["custom_id"]: error_code(record) for record in records}


def test_the_queue_is_filled_up_to_the_look_ahead(job: JobFolder) -> None:
    job.write_input(text_lines(30))
    reading = Reading(job, look_ahead=8)
    reading.feed.fill(reading.engine)
    assert reading.engine.num_waiting == 8
    assert not reading.feed.is_exhausted
    reading.feed.fill(reading.engine)
    assert reading.engine.num_waiting == 8, "nothing was taken, so nothing is read"
    reading.run()
    assert len(reading.heads()) == 30
    assert reading.engine.most_waiting == 8


def test_choices_of_a_line_are_requests_of_their_own(job: JobFolder) -> None:
    job.write_input([text_line("a", n=3), chat_line("b")])
    reading = Reading(job)
    reading.feed.fill(reading.engine)
    choices = [(request.key.offset > 0, request.choice) for request in reading.engine.seen]
    assert choices == [(False, 0), (False, 1), (False, 2), (True, 0)]


def test_faulty_lines_get_records_and_the_others_run(job: JobFolder) -> None:
    job.write_input(
        [
            text_line("good-1"),
            b"{no json",
            b'{"custom_id": "latin-\xe9"}',
            line_of({"prompt": "x"}, custom_id="no-method", method=None),
            line_of({"prompt": "x"}, url="/v1/embeddings", custom_id="no-url"),
            text_line("no-model", model="gpt-4"),
            text_line("good-1"),
            text_line("long", prompt="word " * 1000),
            text_line("good-2"),
        ]
    )
    reading = Reading(job)
    reading.run()
    assert len(reading.heads()) == 9
    assert [request.key.offset for request in reading.engine.seen] == [
        0,
        reading.engine.seen[1].key.offset,
    ]
    assert dict(reading.collector.failed_reasons) == {
        "invalid_json": 1,
        "invalid_encoding": 1,
        "missing_field": 1,
        "unknown_url": 1,
        "model_not_found": 1,
        "duplicate_custom_id": 1,
        "context_length_exceeded": 1,
    }
    errors = record_errors(reading.store)
    assert errors["no-model"] == "model_not_found"
    assert errors["good-2"] is None


def test_a_request_that_can_never_fit_is_refused_before_it_waits(job: JobFolder) -> None:
    job.write_input([text_line("a", max_tokens=100), text_line("b", max_tokens=4)])
    reading = Reading(job)
    reading.engine.max_tokens = 50
    reading.run()
    assert record_errors(reading.store) == {"a": "kv_cache_exceeded", "b": None}
    assert len(reading.engine.seen) == 1


def test_a_line_that_is_too_long_is_not_even_kept(job: JobFolder) -> None:
    long_line = b'{"custom_id": "long", "body": "' + b"x" * (65 << 20) + b'"}'
    job.write_input([text_line("a"), long_line, text_line("b")])
    reading = Reading(job, range_bytes=1 << 30)
    reading.run()
    assert record_errors(reading.store) == {"a": None, None: "line_too_long", "b": None}


def test_lines_that_leave_no_request_do_not_starve_the_engine(job: JobFolder) -> None:
    num_lines = 2 * feed_module.MAX_LINES_PER_FILL + 1
    job.write_input([b"no json"] * num_lines)
    reading = Reading(job)
    reading.feed.fill(reading.engine)
    assert sum(reading.collector.failed_reasons.values()) == feed_module.MAX_LINES_PER_FILL
    assert not reading.feed.is_exhausted
    reading.run()
    assert reading.collector.counts.failed == num_lines


def test_a_second_run_reads_only_what_has_no_record(job: JobFolder) -> None:
    job.write_input([*text_lines(10), b"no json"])
    first = Reading(job, look_ahead=4)
    first.turn()
    first.turn()
    first.collector.flush(everything=True)
    num_done = len(first.heads())
    assert 0 < num_done < 11
    second = Reading(job, first.store)
    second.run()
    assert len(second.engine.seen) + num_done in (10, 11), "no request twice"
    assert len(second.offsets()) == len(set(second.offsets())) == 11
    assert second.collector.counts.num_records == 11
    third = Reading(job, first.store)
    third.run()
    assert not third.engine.seen, "done ranges are not even read"


def test_a_repeat_stays_a_repeat_when_the_first_line_is_done_already(job: JobFolder) -> None:
    job.write_input([text_line("a"), text_line("b"), text_line("a")])
    first = Reading(job, look_ahead=1)
    first.turn()
    first.collector.flush(everything=True)
    assert record_errors(first.store) == {"a": None}
    second = Reading(job, first.store)
    second.run()
    assert dict(second.collector.failed_reasons) == {"duplicate_custom_id": 1}
    assert len(second.heads()) == 3


def test_the_same_id_in_another_file_is_no_repeat(job: JobFolder) -> None:
    job.write_input([text_line("a")], "1.jsonl")
    job.write_input([text_line("a")], "2.jsonl")
    reading = Reading(job)
    reading.run()
    assert not reading.collector.failed_reasons
    assert {head.pipemax.file for head in reading.heads()} == {"1.jsonl", "2.jsonl"}


def test_ranges_cut_through_lines_and_no_line_is_lost_or_doubled(job: JobFolder) -> None:
    lines = text_lines(40)
    job.write_input(lines)
    reading = Reading(job, range_bytes=333)
    assert len(reading.ledger.ranges) > 10
    reading.run()
    assert len(reading.offsets()) == len(set(reading.offsets())) == 40
    assert reading.ledger.is_finished


def test_error_records_name_the_line_also_far_into_the_file(job: JobFolder) -> None:
    lines = text_lines(40)
    lines[30] = b"no json"
    job.write_input(lines)
    reading = Reading(job, range_bytes=333)
    reading.run()
    failed = [
        json.loads(line)
        for key in reading.store.list("errors/")
        for line in reading.store.get(key).splitlines()
    ]
    assert [record["pipemax"]["line"] for record in failed] == [31]
    assert "in.jsonl, line 31" in failed[0]["error"]["message"]


def test_compressed_files_and_blank_lines(job: JobFolder) -> None:
    (job.folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n\n" + text_line("b") + b"\n"))
    job.write_input([b"", text_line("a"), b"   "], "a.jsonl")
    reading = Reading(job, changes={"input": {"uris": ["a.jsonl", "b.jsonl.gz"]}})
    reading.run()
    assert record_errors(reading.store) == {"a": None, "b": None}


def test_a_range_that_a_newer_attempt_has_taken_is_left(job: JobFolder) -> None:
    job.write_input(text_lines(12))
    slow = Reading(job, look_ahead=4)
    slow.turn()
    rival = Reading(job, slow.store, worker="worker-2")
    rival.run(turn_seconds=10.0)
    slow.clock.seconds += 10.0  # its first records are due
    slow.run()
    assert len(slow.offsets()) == len(set(slow.offsets())) == 12
    assert {head.pipemax.worker for head in slow.heads()} == {"worker-2"}
    assert len(slow.engine.seen) == 8, "it stopped reading once it knew"


def test_schemas_that_cannot_be_compiled_are_their_requests_errors(job: JobFolder) -> None:
    def line(custom_id: str, schema: object) -> bytes:
        schema = {"name": "n", "schema": schema}
        return text_line(custom_id, response_format={"type": "json_schema", "json_schema": schema})

    job.write_input(
        [
            line("good", {"type": "object"}),
            line("keyword", {"not": {"type": "object"}}),
            line("regex", {"type": "string", "pattern": "(?<=a)b"}),
            line("type", {"type": "text"}),
            line("large", {"enum": ["x" * 1000] * 300}),
            text_line("any", response_format={"type": "json_object"}),
            text_line("form", response_format={"type": "yaml"}),
        ]
    )
    reading = Reading(job)
    reading.run()
    errors = record_errors(reading.store)
    assert {custom_id for custom_id, code in errors.items() if code is None} == {"good", "any"}
    assert errors.pop("form") == "unsupported_parameter"
    assert {code for code in errors.values() if code} == {"invalid_response_format"}
    assert all(request.sampling.grammar for request in reading.engine.seen)
