"""A remote object reads like a file, in bounded blocks, and no further than asked."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.dataset import ranged_file
from pipemax_worker.dataset.ranged_file import RangedFile

_DATA = random.Random(0).randbytes(5000)


class Source:
    """Keeps what was fetched."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fetched: list[tuple[int, int]] = []

    def fetch(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= len(self.data)
        self.fetched.append((start, end))
        return self.data[start:end]


@given(
    st.lists(st.tuples(st.integers(0, 5100), st.integers(0, 3000)), max_size=12),
    st.integers(1, 2000),
    st.integers(0, 5000),
    st.booleans(),
)
def test_any_reads_are_those_of_the_bytes(
    reads: list[tuple[int, int]], block_bytes: int, expected_end: int, is_buffered: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranged_file, "BLOCK_BYTES", block_bytes)
        patch.setattr(ranged_file, "_FIRST_BLOCK_PAST_END_BYTES", 100)
        source = Source(_DATA)
        raw = RangedFile(source.fetch, len(_DATA), expected_end)
        file = io.BufferedReader(raw, 300) if is_buffered else io.BufferedReader(raw, 1)
        for offset, num_bytes in reads:
            file.seek(offset)
            assert file.read(num_bytes) == _DATA[offset : offset + num_bytes]
            assert file.tell() == min(offset + num_bytes, max(offset, len(_DATA)))
    assert all(end - start <= block_bytes for start, end in source.fetched)


def test_reading_in_order_fetches_every_byte_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged_file, "BLOCK_BYTES", 700)
    source = Source(_DATA)
    file = io.BufferedReader(RangedFile(source.fetch, len(_DATA)))
    assert b"".join(file) == _DATA
    assert sum(end - start for start, end in source.fetched) == len(_DATA)


def test_little_is_fetched_beyond_the_expected_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged_file, "_FIRST_BLOCK_PAST_END_BYTES", 100)
    source = Source(_DATA)
    file = RangedFile(source.fetch, len(_DATA), expected_end=1000)
    file.seek(500)
    file.read(400)
    assert source.fetched == [(500, 1100)]
    file.seek(1100)
    for _ in range(3):
        file.read(5000)
    assert source.fetched[1:] == [(1100, 1200), (1200, 1400), (1400, 1800)]


def test_whence_and_the_end() -> None:
    file = RangedFile(Source(_DATA).fetch, len(_DATA))
    assert file.seek(-10, io.SEEK_END) == 4990
    assert file.seek(5, io.SEEK_CUR) == 4995
    assert file.read(100) == _DATA[4995:]
    assert file.read(100) == b""
    assert file.seekable()
    assert file.readable()
