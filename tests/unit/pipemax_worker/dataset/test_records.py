"""A record goes into a segment whole and its head comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kit.records import make_failed_record, make_record
from pipemax_worker.dataset.records import Attempt, RecordCounts, encode_record, read_records
from pipemax_worker.errors import OutputError

ATTEMPT = Attempt(2, "worker-b")


def _head_counts(record: dict[str, Any]) -> RecordCounts:
    ((head, _),) = read_records("key", encode_record(record, ATTEMPT))
    return head.counts


def test_a_record_keeps_all_it_had_and_gains_its_attempt() -> None:
    record = make_record(7)
    line = encode_record(record, ATTEMPT)
    decoded = json.loads(line)
    assert decoded.pop("pipemax") == {
        "file": "a.jsonl",
        "offset": 7,
        "line": None,
        "attempt": 2,
        "worker": "worker-b",
    }
    assert decoded == {name: value for name, value in record.items() if name != "pipemax"}
    assert b"\n" not in line
    ((head, again),) = read_records("key", line + b"\n")
    assert (head.pipemax.offset, head.attempt, again) == (7, ATTEMPT, line)


def test_counts_tell_served_from_failed() -> None:
    assert _head_counts(make_record(0, 5, 6)) == RecordCounts(1, 0, 5, 6)
    assert _head_counts(make_failed_record(0)) == RecordCounts(0, 1, 0, 0)
    assert _head_counts({**make_record(0), "response": None}).failed == 1
    assert _head_counts({**make_record(0), "error": {"code": "x"}}).failed == 1
    no_usage = {**make_record(0), "response": {"status_code": 200, "body": {}}}
    assert _head_counts(no_usage) == RecordCounts(1, 0, 0, 0)


def test_a_newer_attempt_is_greater() -> None:
    assert Attempt(10, "a") > Attempt(9, "z") > Attempt(9, "a")


@pytest.mark.parametrize("damage", [b"{", b"{}", b'{"pipemax": {"offset": "x"}}', b"\xff", b"[]"])
def test_a_damaged_segment_is_named_with_its_line(damage: bytes) -> None:
    good = encode_record(make_record(0), ATTEMPT)
    with pytest.raises(OutputError, match=r"results/k\.jsonl, line 2: not a record"):
        list(read_records("results/k.jsonl", good + b"\n" + damage + b"\n"))
