"""Ranges cover the input by arithmetic, whatever its size."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ranges import (
    MAX_RANGE_BYTES,
    MIN_RANGE_BYTES,
    InputRange,
    choose_range_bytes,
    plan_ranges,
)


def _file(name: str, size_bytes: int) -> InputFile:
    return InputFile(name=name, size_bytes=size_bytes, content_hash="")


@given(st.lists(st.integers(0, 500), max_size=6), st.integers(1, 120))
def test_ranges_cover_every_byte_once_in_order(sizes: list[int], range_bytes: int) -> None:
    files = [_file(f"{number}.jsonl", size) for number, size in enumerate(sizes)]
    plan = plan_ranges(files, range_bytes)
    for file in files:
        covered = [
            (input_range.start, input_range.end)
            for input_range in plan
            if input_range.file.name == file.name
        ]
        starts = [start for start, _ in covered]
        ends = [end for _, end in covered]
        assert starts == list(range(0, file.size_bytes, range_bytes))
        assert ends == [*starts[1:], file.size_bytes][: len(starts)]
    assert [input_range.index for input_range in plan] == list(range(len(plan)))
    assert sum(input_range.size_bytes for input_range in plan) == sum(sizes)


@given(st.lists(st.integers(0, 300), max_size=5), st.integers(1, 100))
def test_indexing_agrees_with_iterating(sizes: list[int], range_bytes: int) -> None:
    names = [f"{number}.jsonl{'.gz' if number % 2 else ''}" for number in range(len(sizes))]
    plan = plan_ranges([_file(*pair) for pair in zip(names, sizes, strict=True)], range_bytes)
    listed = list(plan)
    assert [plan[index] for index in range(len(plan))] == listed
    assert list(plan[1:3]) == listed[1:3]
    if listed:
        assert plan[-1] == listed[-1]
    with pytest.raises(IndexError):
        plan[len(plan)]


def test_a_compressed_file_is_one_range_without_end() -> None:
    files = [_file("a.jsonl", 250), _file("b.jsonl.gz", 10_000), _file("c.jsonl.gz", 0)]
    plan = plan_ranges(files, 100)
    assert list(plan)[2:] == [
        InputRange(2, files[0], 200, 250),
        InputRange(3, files[1], 0, None),
    ]
    assert plan[3].size_bytes == 10_000


def test_an_exabyte_is_planned_without_listing_it() -> None:
    tracemalloc.start()
    plan = plan_ranges([_file("a.jsonl", 10**18), _file("b.jsonl", 10**15)], MIN_RANGE_BYTES)
    last = plan[-1]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (last.file.name, last.end) == ("b.jsonl", 10**15)
    assert peak_bytes < 100_000


@pytest.mark.parametrize(
    ("total_bytes", "expected"),
    [
        (0, MIN_RANGE_BYTES),
        (1, MIN_RANGE_BYTES),
        (64 * 1024 * 1024, MIN_RANGE_BYTES),
        (64 * 1024 * 1024 + 1, 2 * MIN_RANGE_BYTES),
        (16 * 1024**3, MAX_RANGE_BYTES),
        (10**15, MAX_RANGE_BYTES),
    ],
)
def test_the_range_size_follows_the_input_within_limits(total_bytes: int, expected: int) -> None:
    assert choose_range_bytes(total_bytes) == expected


def test_a_range_has_bytes() -> None:
    with pytest.raises(ValueError, match="positive"):
        plan_ranges([], 0)
