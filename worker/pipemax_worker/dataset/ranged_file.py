"""A remote object as a file that can be read and sought: ranged reads, a block at a time."""

from __future__ import annotations

import io
from collections.abc import Callable

BLOCK_BYTES = 4 * 1024 * 1024
_FIRST_BLOCK_PAST_END_BYTES = 64 * 1024


class RangedFile(io.RawIOBase):
    """Reads ahead in blocks of at most :data:`BLOCK_BYTES` and holds one of them.

    fetch         bytes ``[start, end)`` of the object; it alone talks to the store, tries again
                  where that fails, and raises what the reader gets.
    expected_end  where its user means to stop, within ``size_bytes``: nothing is fetched far beyond
                  it unless he goes on, then in blocks that double (a line that began before it).
    """

    def __init__(
        self, fetch: Callable[[int, int], bytes], size_bytes: int, expected_end: int | None = None
    ) -> None:
        super().__init__()
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._expected_end = size_bytes if expected_end is None else expected_end
        self._past_end_bytes = _FIRST_BLOCK_PAST_END_BYTES
        self._position = 0
        self._block_start = 0
        self._block = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = max(0, starts[whence] + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any buffer
        if self._position >= self._size_bytes:
            return 0
        if not self._block_start <= self._position < self._block_start + len(self._block):
            self._load_block()
        start = self._position - self._block_start
        data = memoryview(self._block)[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _load_block(self) -> None:
        start, num_bytes = self._position, self._expected_end - self._position
        if num_bytes <= 0:
            num_bytes = self._past_end_bytes
            self._past_end_bytes *= 2
        else:
            num_bytes += _FIRST_BLOCK_PAST_END_BYTES
        self._block = b""  # before the next one: two are never held
        self._block = self._fetch(start, min(start + min(num_bytes, BLOCK_BYTES), self._size_bytes))
        self._block_start = start
