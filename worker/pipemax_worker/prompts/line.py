"""An input line of the OpenAI Batch form: its envelope, before its body is looked at."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from pipemax_worker.contract.request import RecordKey
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.fields import Fields, describe

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Endpoint(enum.StrEnum):
    """The urls that are served."""

    CHAT_COMPLETIONS = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"


class BatchLine(msgspec.Struct, frozen=True):
    """``{"custom_id", "method": "POST", "url", "body": {...}}``."""

    custom_id: str
    endpoint: Endpoint
    body: dict[str, Any]


def parse_line(data: bytes) -> BatchLine:
    """Read one line's envelope.

    Raises RequestError: ``invalid_encoding``, ``invalid_json``, ``missing_field``,
    ``invalid_type``, ``invalid_value``, ``invalid_method``, ``unknown_url`` and
    ``unsupported_parameter`` for a field that the envelope does not have.
    """
    fields = Fields(_decode_json(data), "")
    custom_id = fields.take_string("custom_id")
    if (method := fields.take_required("method")) != "POST":
        message = f"method must be 'POST'; found {describe(method)}"
        raise RequestError("invalid_method", message, "method")
    endpoint = _endpoint(fields.take_required("url"))
    body = fields.take_required("body")
    Fields(body, "body")
    fields.refuse_rest()
    return BatchLine(custom_id, endpoint, body)


def read_custom_id(data: bytes) -> str | None:
    """The line's ``custom_id`` where there is one, for the record of a line that was refused."""
    try:
        value = _decode_json(data)
    except RequestError:
        return None
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    return custom_id if isinstance(custom_id, str) and custom_id else None


def _decode_json(data: bytes) -> Any:
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the line is not UTF-8: {error.reason} at byte {error.start} of the line"
        raise RequestError("invalid_encoding", message) from None
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise RequestError("invalid_json", f"the line is not valid JSON: {error}") from None
    except RecursionError:
        raise RequestError("invalid_json", "the line's JSON is nested too deeply") from None


def _endpoint(url: object) -> Endpoint:
    try:
        return Endpoint(url)  # type: ignore[arg-type]
    except ValueError:
        served = " and ".join(repr(endpoint.value) for endpoint in Endpoint)
        message = f"url {describe(url)} is not served; served are {served}"
        raise RequestError("unknown_url", message, "url") from None


class DuplicateIds:
    """The ``custom_id`` of every line of one range, to find repeats. One instance a range."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[RecordKey, int | None]] = {}

    def add(self, custom_id: str, key: RecordKey, line_number: int | None) -> None:
        """Remember a line; raises RequestError ``duplicate_custom_id`` naming the first one.

        Adding the same line again (the same key) is no repeat.
        """
        first_key, first_line = self._first.setdefault(custom_id, (key, line_number))
        if first_key == key:
            return
        at = f"byte {first_key.offset}" if first_line is None else f"line {first_line}"
        message = f"custom_id {custom_id!r} repeats that of {first_key.file}, {at}; ids are unique"
        raise RequestError("duplicate_custom_id", message, "custom_id")
