"""Repeated ids are found whatever the partitions, blocks and writers are."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipemax_worker.dataset.repeated_ids import (
    IdPartitions,
    Place,
    Repeat,
    RepeatReport,
    choose_num_partitions,
)
from pipemax_worker.errors import OutputError

Line = tuple[str, bool]  # custom_id, is_faulty


def find(
    lines: list[Line], folder: Path, num_partitions: int, max_memory_bytes: int, num_writers: int
) -> RepeatReport:
    """``lines`` lie in files of seven; writers take them in turn, the last line first."""
    writers = [
        IdPartitions(folder, num_partitions, max_memory_bytes, str(number))
        for number in range(num_writers)
    ]
    for index in reversed(range(len(lines))):
        custom_id, is_faulty = lines[index]
        place = Place(index // 7, index % 7 * 100)
        writers[index % num_writers].add(custom_id, place, is_faulty)
    for writer in writers:
        writer.flush()
    return writers[0].find_repeats(max_shown=5)


def find_by_dictionary(lines: list[Line]) -> RepeatReport:
    first: dict[str, Place] = {}
    repeats = []
    for index, (custom_id, is_faulty) in enumerate(lines):
        place = Place(index // 7, index % 7 * 100)
        if first.setdefault(custom_id, place) != place and not is_faulty:
            repeats.append(Repeat(place, first[custom_id]))
    return RepeatReport(len(repeats), tuple(repeats[:5]))


@settings(deadline=None)
@given(
    lines=st.lists(st.tuples(st.sampled_from("abcdefgh\ud800é"), st.booleans()), max_size=60),
    num_partitions=st.integers(1, 5),
    max_memory_bytes=st.sampled_from([1, 500, 2000, 10**6]),
    num_writers=st.integers(1, 3),
)
def test_as_a_dictionary_would(
    lines: list[Line], num_partitions: int, max_memory_bytes: int, num_writers: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = find(lines, Path(folder), num_partitions, max_memory_bytes, num_writers)
    assert found == find_by_dictionary(lines)


def test_no_lines(tmp_path: Path) -> None:
    assert IdPartitions(tmp_path, 3, 1000).find_repeats(5) == RepeatReport(0, ())


@pytest.mark.parametrize("num_distinct", [1, 60_000])
def test_memory_is_bounded(tmp_path: Path, num_distinct: int) -> None:
    """Also where all lines have one id, which all lie in one partition then."""
    max_memory_bytes = 1_000_000
    num_partitions = choose_num_partitions(64 * 60_000, max_memory_bytes)
    tracemalloc.start()
    try:
        ids = IdPartitions(tmp_path, num_partitions, max_memory_bytes)
        for index in range(60_000):
            ids.add(str(index % num_distinct), Place(index // 1000, index % 1000), False)
        ids.flush()
        found = ids.find_repeats(5)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.num_repeats == 60_000 - num_distinct
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 28 * 60_000
    assert peak_bytes < 1.5 * max_memory_bytes


def test_partitions_are_as_many_as_the_memory_demands() -> None:
    assert choose_num_partitions(0, 1000) == 1
    assert choose_num_partitions(10**6, 10**9) == 1
    few, many = (choose_num_partitions(10**11, memory) for memory in (10**9, 10**8))
    assert 1 < few < many
    assert choose_num_partitions(10**18, 1) == 4096


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    ids = IdPartitions(tmp_path / "gone", 1, 1000)
    ids.add("a", Place(0, 0), False)
    with pytest.raises(OutputError, match=r"gone/0000-0: could not write ids .* TMPDIR"):
        ids.flush()


def test_places_beyond_four_gigabytes(tmp_path: Path) -> None:
    ids = IdPartitions(tmp_path, 1, 1000)
    first, second = Place(0, 2**40), Place(2**20, 2**41)
    ids.add("a", second, False)
    ids.add("a", first, True)
    ids.flush()
    assert ids.find_repeats(1).first_ones == (Repeat(second, first),)
    assert np.iinfo(np.int64).max > 2**41
