"""A record's form in a segment: an OpenAI Batch output line with an object ``pipemax`` beside it.

That object holds what the chain needs to know of a record (its key and who wrote it); the rest is
the user's and is not interpreted, but for the counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pipemax_worker.contract.request import RecordKey
from pipemax_worker.errors import InvariantError, OutputError

_FIRST_ERROR_STATUS = 400


class Attempt(msgspec.Struct, frozen=True, order=True):
    """One worker's turn at a range. The greater is the newer; ``worker`` only breaks ties."""

    number: int
    worker: str


class RecordOrigin(msgspec.Struct, frozen=True):
    """The ``pipemax`` object: the record's key and the attempt that wrote it.

    retry       the number of the retry in which it was written (``retries``); 0 in the first pass.
    is_copied   it was taken over from an earlier job's output (``earlier``).
    """

    file: str
    offset: int
    attempt: int
    worker: str
    retry: int = 0
    is_copied: bool = msgspec.field(default=False, name="copied")


class RecordCounts(msgspec.Struct, frozen=True):
    """How many requests have a record, and the tokens their ``usage`` names."""

    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def num_records(self) -> int:
        return self.completed + self.failed

    def __add__(self, other: RecordCounts) -> RecordCounts:
        return RecordCounts(
            self.completed + other.completed,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Body(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


class _Response(msgspec.Struct, frozen=True):
    status_code: int = 200
    body: _Body | None = None


class _Error(msgspec.Struct, frozen=True):
    code: str = "unknown"


class RecordHead(msgspec.Struct, frozen=True):
    """The fields of a record that we read back; msgspec skips the others without building them."""

    pipemax: RecordOrigin
    response: _Response | None = None
    error: _Error | None = None

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.pipemax.attempt, self.pipemax.worker)

    @property
    def is_failed(self) -> bool:
        if self.error is not None or self.response is None:
            return True
        return self.response.status_code >= _FIRST_ERROR_STATUS

    @property
    def error_code(self) -> str | None:
        """Why the request failed, in one word; None if it did not."""
        if not self.is_failed:
            return None
        return self.error.code if self.error is not None else _Error().code

    @property
    def counts(self) -> RecordCounts:
        usage = self.response.body.usage if self.response and self.response.body else None
        usage = usage or _Usage()
        failed = int(self.is_failed)
        return RecordCounts(1 - failed, failed, usage.prompt_tokens, usage.completion_tokens)


_ENCODER = msgspec.json.Encoder()
_HEAD_DECODER = msgspec.json.Decoder(RecordHead)


def key_of(record: Mapping[str, Any]) -> RecordKey:
    """The key in a record's ``pipemax`` object, where ``prompts`` puts it.

    Raises InvariantError if it is not there.
    """
    try:
        return RecordKey(record["pipemax"]["file"], record["pipemax"]["offset"])
    except (KeyError, TypeError):
        raise InvariantError(f"a record without its key: {record.get('id')}") from None


def encode_record(record: Mapping[str, Any], attempt: Attempt, retry: int = 0) -> bytes:
    """One JSON line without its end, attempt and retry added to the ``pipemax`` object."""
    origin = {**record["pipemax"], "attempt": attempt.number, "worker": attempt.worker}
    if retry:
        origin["retry"] = retry
    return _ENCODER.encode({**record, "pipemax": origin})


def read_copy(line: bytes) -> dict[str, Any]:
    """A record of another job's output, marked as copied, for this job's chain."""
    record: dict[str, Any] = msgspec.json.decode(line)
    origin = {name: record["pipemax"].get(name) for name in ("file", "offset", "line")}
    return {**record, "pipemax": {**origin, "copied": True}}


def read_records(segment_key: str, data: bytes) -> Iterator[tuple[RecordHead, bytes]]:
    """Every record of a segment: its head and its line. Raises OutputError for a damaged one."""
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield _HEAD_DECODER.decode(line), line
        except msgspec.DecodeError as error:
            raise OutputError(
                f"{segment_key}, line {number}: not a record of ours: {error}; "
                "the file was changed from outside: restore it, or remove it to compute it again"
            ) from error
