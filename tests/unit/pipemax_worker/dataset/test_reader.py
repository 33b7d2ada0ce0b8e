"""Every line of the input is read once, wherever the ranges are cut, in bounded memory."""

from __future__ import annotations

import gzip
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pipemax_worker.dataset import line_numbers
from pipemax_worker.dataset.inputs import InputFile, discover_inputs
from pipemax_worker.dataset.line_numbers import LineNumbers
from pipemax_worker.dataset.ranges import plan_ranges
from pipemax_worker.dataset.reader import Line, RangeReader
from pipemax_worker.errors import InputError

# Few letters, many line ends: cuts fall on every kind of place.
_CONTENTS = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"a", b"bc", b" ", b"\xff", b"long line " * 3, b"\r"]),
    min_size=1,
    max_size=40,
).map(b"".join)


def _input(folder: Path, content: bytes, name: str = "a.jsonl") -> InputFile:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (file,) = discover_inputs([path])
    return file


def _read(file: InputFile, range_bytes: int, max_line_bytes: int = 1000) -> list[Line]:
    return [
        line
        for input_range in plan_ranges([file], range_bytes)
        for line in RangeReader(input_range, max_line_bytes)
    ]


def _expected(content: bytes) -> list[tuple[int, int, bytes]]:
    """(offset, line number, text) of every line that is not blank, the slow and plain way."""
    lines, offset = [], 0
    for number, raw in enumerate(content.split(b"\n"), start=1):
        text = raw.removesuffix(b"\r")
        if text.strip():
            lines.append((offset, number, text))
        offset += len(raw) + 1
    return lines


@given(_CONTENTS, st.integers(1, 60))
@example(b"a\nb", 1)
@example(b"\na\n\nb\n", 2)
@example(b"a\r\nb\r\n", 2)
def test_any_cut_yields_every_line_once_with_its_offset_and_number(
    content: bytes, range_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = _input(Path(folder), content)
        numbers = LineNumbers()
        found = [
            (line.key.offset, numbers.number_of(line, input_range), line.data)
            for input_range in plan_ranges([file], range_bytes)
            for line in RangeReader(input_range)
        ]
    assert found == _expected(content)


@given(_CONTENTS)
def test_a_compressed_file_reads_as_its_text(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = _read(_input(Path(folder), content, "a.jsonl.gz"), 7)
    found = [(line.key.offset, line.line_number_in_range, line.data) for line in lines]
    assert found == _expected(content)


@given(_CONTENTS, st.integers(1, 60), st.integers(1, 25))
def test_too_long_lines_are_marked_and_the_others_are_read(
    content: bytes, range_bytes: int, max_line_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = _read(_input(Path(folder), content), range_bytes, max_line_bytes)
    found = {line.key.offset: line for line in lines}
    assert len(found) == len(lines)
    for offset, _, text in _expected(content):
        line = found.pop(offset)
        assert line.is_too_long == (len(text) > max_line_bytes)
        assert line.data == (b"" if line.is_too_long else text)
    # A blank line beyond the limit is not looked at; it counts as too long.
    assert all(line.is_too_long for line in found.values())


def test_lines_carry_the_file_and_may_be_read_again(tmp_path: Path) -> None:
    file = _input(tmp_path, b"one\n\ntwo")
    reader = RangeReader(plan_ranges([file], 100)[0])
    assert list(reader) == list(reader)
    assert [(line.key.file, line.line_number_in_range, line.data) for line in reader] == [
        ("a.jsonl", 1, b"one"),
        ("a.jsonl", 3, b"two"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = _input(tmp_path, b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n")
    first, second = _read(file, 100)
    assert (first.key.offset, first.data) == (0, b"{}")
    assert (second.key.offset, second.data) == (6, b"\xef\xbb\xbf{}")


def test_line_numbers_can_be_asked_in_any_order(tmp_path: Path) -> None:
    content = b"".join(b"%d\n" % number for number in range(1, 400))
    file = _input(tmp_path, content)
    plan = plan_ranges([file], 64)
    numbers = LineNumbers()
    for input_range in [plan[9], plan[2], plan[15], plan[3], plan[9], plan[0]]:
        for line in RangeReader(input_range):
            assert numbers.number_of(line, input_range) == int(line.data)


def test_line_numbers_in_order_cost_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    count = line_numbers._count_line_ends
    monkeypatch.setattr(
        line_numbers,
        "_count_line_ends",
        lambda stream, num_bytes: counted.append(num_bytes) or count(stream, num_bytes),
    )
    file = _input(tmp_path, b"0123456\n" * 1000)
    numbers = LineNumbers()
    for input_range in plan_ranges([file], 100):
        for line in RangeReader(input_range):
            numbers.number_of(line, input_range)
    assert sum(counted) <= file.size_bytes


def _read_peak_bytes(file: InputFile, range_bytes: int, max_line_bytes: int) -> tuple[int, int]:
    """(number of lines, most memory held while reading them one by one)"""
    tracemalloc.start()
    num_lines = sum(
        1
        for input_range in plan_ranges([file], range_bytes)
        for _ in RangeReader(input_range, max_line_bytes)
    )
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return num_lines, peak_bytes


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, name: str) -> None:
    line = b"x" * 4999 + b"\n"
    path = tmp_path / name
    with gzip.open(path, "wb", 1) if name.endswith(".gz") else open(path, "wb") as stream:
        for _ in range(50):
            stream.write(line * 200)
    (file,) = discover_inputs([path])
    num_lines, peak_bytes = _read_peak_bytes(file, 4 * 1024 * 1024, 1024 * 1024)
    assert num_lines == 10_000
    assert peak_bytes < 4 * 1024 * 1024


def test_memory_does_not_grow_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as stream:
        for _ in range(50):
            stream.write(b"x" * 1_000_000)
        stream.write(b"\nlast")
    (file,) = discover_inputs([path])
    num_lines, peak_bytes = _read_peak_bytes(file, 4 * 1024 * 1024, 100_000)
    assert num_lines == 2
    assert peak_bytes < 8 * 1024 * 1024


def test_a_line_over_many_ranges_is_not_read_by_each_to_its_end(tmp_path: Path) -> None:
    file = _input(tmp_path, b"x" * 1_000_000 + b"\nlast\n")
    plan = plan_ranges([file], 1000)
    reads: list[int] = []

    class CountingReader(RangeReader):
        def _lines(self, stream):  # type: ignore[no-untyped-def]
            yield from super()._lines(stream)
            reads.append(stream.tell() - (self._range.start - 1))

    assert [line for input_range in plan[1:1000] for line in CountingReader(input_range)] == []
    assert max(reads) <= 1000


def _read_all(file: InputFile) -> int:
    return len(_read(file, 100))


def test_a_truncated_or_foreign_gzip_file_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(os.urandom(5000))
    for content, said in (
        (packed[:2000], "the gzip file is cut off"),
        (b"not gzip at all\n", "is no valid gzip file"),
        (packed[:-8] + b"\0" * 8, "is no valid gzip file"),
    ):
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(content)
        (file,) = discover_inputs([path])
        with pytest.raises(InputError, match=rf"a\.jsonl\.gz: {said}"):
            _read_all(file)


def test_an_input_that_changes_is_noticed(tmp_path: Path) -> None:
    file = _input(tmp_path, b"one\ntwo\n")
    path = Path(file.path)
    path.write_bytes(b"one\ntwo\nthree\n")
    with pytest.raises(InputError, match="size was 8 bytes and is 14"):
        _read_all(file)
    path.write_bytes(b"one\nTWO\n")
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="its content is another"):
        _read_all(file)
    path.write_bytes(b"one\ntwo\n")
    os.utime(path, ns=(2, 2))
    assert _read_all(file) == 2


def test_an_input_that_changes_while_a_range_is_read_is_noticed(tmp_path: Path) -> None:
    file = _input(tmp_path, b"one\ntwo\n")
    lines = iter(RangeReader(plan_ranges([file], 100)[0]))
    next(lines)
    os.truncate(file.path, 4)
    with pytest.raises(InputError, match="the input changed"):
        list(lines)


def test_an_input_that_vanishes_is_named(tmp_path: Path) -> None:
    file = _input(tmp_path, b"one\n")
    os.unlink(file.path)
    with pytest.raises(InputError, match=r"a\.jsonl: cannot be read"):
        _read_all(file)


def test_no_line_is_handed_out_that_was_read_after_a_change(tmp_path: Path) -> None:
    """The file is longer than the buffer, and changes while its first lines are at work."""
    path = tmp_path / "a.jsonl"
    lines = [b'{"id": %06d, "text": "%s"}\n' % (number, b"x" * 1000) for number in range(5000)]
    path.write_bytes(b"".join(lines))
    (input_range,) = plan_ranges(discover_inputs([path]), 1 << 30)
    reader = iter(RangeReader(input_range))
    seen = [next(reader).data for _ in range(10)]
    path.write_bytes(b"".join(lines).replace(b"x", b"y"))
    with pytest.raises(InputError, match="the input changed"):
        seen.extend(line.data for line in reader)
    assert 10 <= len(seen) < 3000
    assert seen == [line.rstrip() for line in lines[: len(seen)]]
