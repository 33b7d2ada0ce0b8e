"""Streams the lines of a range in bounded memory.

Never reads JSON: a line is bytes with a key. Memory is one line (at most :data:`MAX_LINE_BYTES`),
the file's buffer and as much of lines, whatever the input's size.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import msgspec

from pipemax_worker.contract.request import RecordKey
from pipemax_worker.dataset.inputs import InputFile, hash_content
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.s3_inputs import check_object_unchanged, open_object
from pipemax_worker.errors import InputError

MAX_LINE_BYTES = 64 * 1024 * 1024
_BUFFER_BYTES = 1024 * 1024
_BYTES_PER_LINE = 512
"""What a line takes in memory beside its text."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(msgspec.Struct, frozen=True):
    """One input line that is not blank.

    data                  without line end and byte order mark; empty if ``is_too_long``.
    line_number_in_range  from 1, blank lines counted. In a range that starts at 0 it is the line's
                          number in the file; elsewhere ``LineNumbers`` finds that.
    """

    key: RecordKey
    line_number_in_range: int
    data: bytes
    is_too_long: bool = False


class RangeReader:
    """Iterates over the lines whose first byte lies in ``input_range``; may be iterated again.

    Raises InputError while iterating if the file cannot be read, is no valid gzip file, or is not
    the file any more that was found at the start.
    """

    def __init__(self, input_range: InputRange, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._range = input_range
        self._max_line_bytes = max_line_bytes

    def __iter__(self) -> Iterator[Line]:
        file = self._range.file
        with named_read_errors(file):
            if not file.is_remote:  # there every read checks it
                check_unchanged(file)
            with open_text_bytes(file, self._range.end) as stream:
                for portion in _portions(self._lines(stream)):
                    # Before they are handed out: a record of a changed line would stay.
                    if not file.is_remote:
                        check_unchanged(file)
                    yield from portion
            if not file.is_remote:
                check_unchanged(file)

    def _lines(self, stream: BinaryIO) -> Iterator[Line]:
        offset = self._find_first_line(stream)
        number = 0
        end = self._range.end
        while offset is not None and (end is None or offset < end):
            data = stream.readline(self._max_line_bytes + 2)
            if not data:
                return
            number += 1
            text = _without_line_end(data)
            num_bytes = len(data)
            if is_too_long := len(text) > self._max_line_bytes:
                text = b""
                if not data.endswith(b"\n"):
                    num_bytes += self._skip_to_line_end(stream, offset + num_bytes)
            elif offset == 0:
                text = text.removeprefix(_BYTE_ORDER_MARK)
            if is_too_long or (text and not text.isspace()):
                key = RecordKey(self._range.file.name, offset)
                yield Line(key, number, text, is_too_long)
            offset += num_bytes

    def _find_first_line(self, stream: BinaryIO) -> int | None:
        """Offset of the first line that begins in the range, the stream standing there.

        Looks no further than the range, so that one line over many ranges costs each only its own.
        """
        start, end = self._range.start, self._range.end
        if start == 0 or end is None:
            return start
        offset = start - 1
        stream.seek(offset)
        while offset < end - 1:
            data = stream.readline(min(_BUFFER_BYTES, end - 1 - offset))
            if not data:
                return None
            offset += len(data)
            if data.endswith(b"\n"):
                return offset
        return None

    def _skip_to_line_end(self, stream: BinaryIO, offset: int) -> int:
        """Pass over the rest of a line, or to where no line of this range can begin any more."""
        end = self._range.end
        skipped = 0
        while end is None or offset + skipped < end:
            data = stream.readline(_BUFFER_BYTES)
            skipped += len(data)
            if not data or data.endswith(b"\n"):
                break
        return skipped


def _portions(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Lines in portions of a buffer's size, or one line."""
    portion, num_bytes = list[Line](), 0
    for line in lines:
        portion.append(line)
        num_bytes += len(line.data) + _BYTES_PER_LINE
        if num_bytes >= _BUFFER_BYTES:
            yield portion
            portion, num_bytes = [], 0
    if portion:
        yield portion


def open_text_bytes(file: InputFile, end: int | None = None) -> BinaryIO:
    """The file's bytes, decompressed where it is compressed (several members are one text).

    ``end`` is where the reader means to stop: little beyond it is fetched from a store.
    """
    if file.is_remote:
        end = None if file.is_compressed else end
        stream = open_object(file.path, file.etag, file.size_bytes, end)
        return cast(BinaryIO, _RemoteGzip(stream) if file.is_compressed else stream)
    if file.is_compressed:
        return cast(BinaryIO, gzip.open(file.path, "rb"))
    return open(file.path, "rb", buffering=_BUFFER_BYTES)


@contextlib.contextmanager
def named_read_errors(file: InputFile) -> Iterator[None]:
    """What reading ``file`` can raise, as InputError."""
    try:
        yield
    except EOFError as error:
        raise InputError(
            f"{file.path}: the gzip file is cut off: {error}; copy or compress it again, whole"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{file.path}: is no valid gzip file: {error}") from error
    except OSError as error:
        raise InputError(f"{file.path}: cannot be read: {error}") from error


def check_unchanged(file: InputFile) -> None:
    """Raise InputError if the file on disk, or in its bucket, is not what ``file`` describes."""
    if file.is_remote:
        return check_object_unchanged(file.path, file.etag)
    status = os.stat(file.path)
    if status.st_size == file.size_bytes and status.st_mtime_ns == file.modified_ns:
        return
    if status.st_size != file.size_bytes:
        what = f"its size was {file.size_bytes} bytes and is {status.st_size}"
    elif hash_content(file.path, file.size_bytes) != file.content_hash:
        what = "its content is another"
    else:
        return
    raise InputError(
        f"{file.path}: the input changed while the job runs: {what}; "
        "restore the file, or run the changed input with a new output"
    )


class _RemoteGzip(gzip.GzipFile):
    """Closes the stream under it too."""

    def __init__(self, stream: io.BufferedReader) -> None:
        super().__init__(fileobj=stream)
        self._stream = stream

    def close(self) -> None:
        super().close()
        self._stream.close()


def _without_line_end(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r")
