"""The envelope of a line, and repeated ids."""

import pytest
from kit.batch_lines import CHAT, line_of
from pipemax_worker.contract.request import RecordKey
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.line import DuplicateIds, Endpoint, parse_line, read_custom_id


def test_parse_line_gives_the_envelope() -> None:
    line = parse_line(line_of(CHAT, custom_id="x"))
    assert (line.custom_id, line.endpoint, line.body) == ("x", Endpoint.CHAT_COMPLETIONS, CHAT)


def test_repeated_ids_name_the_first() -> None:
    ids = DuplicateIds()
    ids.add("a", RecordKey("x", 0), 1)
    ids.add("b", RecordKey("x", 10), 2)
    ids.add("a", RecordKey("x", 0), 1)  # the same line once more
    with pytest.raises(RequestError, match="'a' repeats that of x, line 1") as caught:
        ids.add("a", RecordKey("x", 20), 3)
    assert (caught.value.code, caught.value.param) == ("duplicate_custom_id", "custom_id")
    ids.add("c", RecordKey("x", 30), None)
    with pytest.raises(RequestError, match="byte 30"):
        ids.add("c", RecordKey("x", 40), None)


def test_the_custom_id_of_a_refused_line() -> None:
    assert read_custom_id(b'{"custom_id": "a", "url": 5}') == "a"
    for data in (b"{", b"[]", b'{"custom_id": 5}', b'{"custom_id": ""}', b"\xff", b"{}"):
        assert read_custom_id(data) is None
