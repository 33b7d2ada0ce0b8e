"""Ranges cover the input by arithmetic, whatever its size."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ranges import (
    MAX_RANGE_BYTES,
    MIN_RANGE_BYTES,
    InputRange,
    RangePlan,
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


def _sizes(plan: RangePlan) -> list[int]:
    return [input_range.size_bytes for input_range in plan]


def test_ranges_shrink_from_half_of_the_bytes_on_down_to_the_smallest_size() -> None:
    plan = plan_ranges([_file("a.jsonl", 64_000)], 400, 50, ranges_per_size=20)
    assert Counter(_sizes(plan)) == {400: 140, 200: 20, 100: 20, 50: 40}
    assert _sizes(plan) == sorted(_sizes(plan), reverse=True)


@given(
    st.lists(st.integers(0, 3000), max_size=6),
    st.integers(1, 40),
    st.integers(0, 4),
    st.integers(1, 9),
)
def test_shrinking_ranges_cover_every_byte_once_in_order(
    sizes: list[int], smallest: int, num_halvings: int, ranges_per_size: int
) -> None:
    names = [f"{number}.jsonl{'.gz' if number % 3 == 2 else ''}" for number in range(len(sizes))]
    files = [_file(*pair) for pair in zip(names, sizes, strict=True)]
    plan = plan_ranges(files, smallest << num_halvings, smallest, ranges_per_size)
    ranges = list(plan)
    assert [plan[index] for index in range(len(plan))] == ranges
    assert [input_range.index for input_range in ranges] == list(range(len(plan)))
    for file in files:
        of_file = [r for r in ranges if r.file == file]
        if file.is_compressed:
            assert [(r.start, r.end) for r in of_file] == ([(0, None)] if file.size_bytes else [])
            continue
        edges = [0, *(r.end for r in of_file)]
        assert [r.start for r in of_file] == edges[:-1]
        assert edges[-1] == file.size_bytes
        assert all(r.size_bytes > 0 for r in of_file)


@given(st.integers(0, 10**7), st.integers(1, 400))
def test_the_shrinking_goes_over_files_as_over_one(total_bytes: int, num_files: int) -> None:
    """Many small files: the last bytes of all of them lie in small ranges, none in a large one."""
    sizes = [total_bytes // num_files] * num_files
    files = [_file(f"{number:04d}.jsonl", size) for number, size in enumerate(sizes)]
    plan = plan_ranges(files, 8000, 1000, ranges_per_size=10)
    last = 0
    for input_range in reversed(plan):
        assert input_range.size_bytes <= max(1000, 1000 + last // 10)
        last += input_range.size_bytes


def test_compressed_files_are_taken_first_the_largest_before_all() -> None:
    files = [
        _file("a.jsonl", 250),
        _file("b.jsonl.gz", 10_000),
        _file("c.jsonl", 100),
        _file("d.jsonl.gz", 20_000),
    ]
    plan = plan_ranges(files, 100)
    order = [plan[plan.taken_at(position)] for position in range(len(plan))]
    assert [(r.file.name, r.start) for r in order] == [
        ("d.jsonl.gz", 0),
        ("b.jsonl.gz", 0),
        ("a.jsonl", 0),
        ("a.jsonl", 100),
        ("a.jsonl", 200),
        ("c.jsonl", 0),
    ]
    assert sorted(plan.taken_at(position) for position in range(len(plan))) == list(range(6))


@pytest.mark.parametrize("gibibytes", [0.2, 1, 2, 16, 1000])
def test_64_workers_can_finish_within_two_percent(gibibytes: float) -> None:
    """The smallest range is at most 2 % of one worker's share, and each size is had by all."""
    total_bytes = int(gibibytes * 2**30)
    plan = plan_ranges(
        [_file("a.jsonl", total_bytes)], choose_range_bytes(total_bytes), MIN_RANGE_BYTES
    )
    assert plan[-1].size_bytes <= 0.02 * total_bytes / 64
    counts = Counter(input_range.size_bytes for input_range in plan[-1000:])
    counts.pop(max(counts))
    assert all(count >= 64 for size, count in counts.items() if size % MIN_RANGE_BYTES == 0)


@pytest.mark.parametrize(
    ("total_bytes", "expected"),
    [
        (0, MIN_RANGE_BYTES),
        (32 * 1024 * 1024 - 1, MIN_RANGE_BYTES),
        (32 * 1024 * 1024, 2 * MIN_RANGE_BYTES),
        (256 * 1024 * 1024, 16 * MIN_RANGE_BYTES),
        (4 * 1024**3, MAX_RANGE_BYTES),
        (10**15, MAX_RANGE_BYTES),
    ],
)
def test_the_largest_size_follows_the_input_within_limits(total_bytes: int, expected: int) -> None:
    assert choose_range_bytes(total_bytes) == expected


@pytest.mark.parametrize("sizes", [(0,), (100, 200), (100, 50, 0), (-1,)])
def test_sizes_are_positive_and_shrink(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        plan_ranges([], *sizes)
