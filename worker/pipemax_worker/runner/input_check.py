"""Checks every line of an input, in as many processes as there are cores, in bounded memory.

The input is cut into portions; what the check of one finds is small, whatever its size: counts, and
the first faults. Ids are looked at in the end, over all portions (``dataset.repeated_ids``).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize
from pathlib import Path

import msgspec

from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.line_numbers import LineNumbers
from pipemax_worker.dataset.ranges import InputRange, RangePlan, plan_ranges
from pipemax_worker.dataset.reader import RangeReader
from pipemax_worker.dataset.repeated_ids import IdPartitions, Place, Repeat, choose_num_partitions
from pipemax_worker.errors import InvariantError
from pipemax_worker.prompts.line import read_custom_id
from pipemax_worker.runner.line_checker import (
    MAX_FAULTS_SHOWN,
    LineChecker,
    LineFault,
    PortionReport,
)

PORTION_BYTES = 8 * 1024 * 1024
MAX_MEMORY_BYTES = 128 * 1024 * 1024
REPEATED_ID = "duplicate_custom_id"
_COMPRESSION_RATIO = 10
"""At most, of JSON lines: so many times its size is what a compressed file is counted for."""


class InputReport(msgspec.Struct, frozen=True):
    """``reasons`` maps an error code to its number of lines, the most frequent first. ``faults``
    are the first ones, in words, in the order of the input."""

    num_lines: int
    reasons: dict[str, int]
    faults: tuple[str, ...]

    @property
    def num_faulty(self) -> int:
        return sum(self.reasons.values())


class CheckSettings(msgspec.Struct, frozen=True):
    """``num_processes`` None: one a core. A single one is this process, and nothing is started."""

    num_processes: int | None = None
    portion_bytes: int = PORTION_BYTES
    max_memory_bytes: int = MAX_MEMORY_BYTES


def check_input(
    files: Sequence[InputFile],
    make_checker: Callable[[], LineChecker],
    settings: CheckSettings | None = None,
) -> InputReport:
    """Check every line of ``files``.

    make_checker   makes a checker, in every process its own; can be pickled.

    Raises InputError; OutputError where the temporary files cannot be written; InvariantError where
    a process is killed.
    """
    settings = settings or CheckSettings()
    portions = plan_ranges(files, settings.portion_bytes)
    num_partitions = choose_num_partitions(_num_text_bytes(files), settings.max_memory_bytes)
    num_processes = max(1, min(settings.num_processes or _num_cores(), len(portions)))
    with tempfile.TemporaryDirectory(prefix="pipemax-validate-") as folder:
        make_ids = _IdsMaker(folder, num_partitions, settings.max_memory_bytes // num_processes)
        check = _check_here if num_processes == 1 else _check_in_processes
        found = _merge(check(portions, make_checker, make_ids, num_processes))
        whole = IdPartitions(Path(folder), num_partitions, settings.max_memory_bytes)
        repeats = whole.find_repeats(MAX_FAULTS_SHOWN)
    reasons = Counter(found.reasons)
    if repeats.num_repeats:
        reasons[REPEATED_ID] += repeats.num_repeats
    words = _Words(files)
    faults = sorted([*found.faults, *map(words.fault_of, repeats.first_ones)])
    shown = tuple(words.describe(fault) for fault in faults[:MAX_FAULTS_SHOWN])
    return InputReport(found.num_lines, dict(reasons.most_common()), shown)


class _IdsMaker(msgspec.Struct, frozen=True):
    """Makes the ids' writer, in every process its own."""

    folder: str
    num_partitions: int
    max_memory_bytes: int

    def __call__(self) -> IdPartitions:
        return IdPartitions(
            Path(self.folder), self.num_partitions, self.max_memory_bytes, str(os.getpid())
        )


def _check_here(
    portions: RangePlan,
    make_checker: Callable[[], LineChecker],
    make_ids: _IdsMaker,
    num_processes: int,
) -> Iterator[PortionReport]:
    checker, ids = make_checker(), make_ids()
    try:
        for portion in portions:
            yield checker.check_portion(portion, ids)
    finally:
        checker.close()


def _check_in_processes(
    portions: RangePlan,
    make_checker: Callable[[], LineChecker],
    make_ids: _IdsMaker,
    num_processes: int,
) -> Iterator[PortionReport]:
    """Reports in the order of the portions; few are in flight at a time."""
    pool = ProcessPoolExecutor(
        num_processes,
        multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(make_checker, make_ids),
    )
    running = deque[Future[PortionReport]]()
    try:
        for portion in portions:
            running.append(pool.submit(_check_portion, portion))
            if len(running) > 2 * num_processes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise InvariantError(
            "a process that checks lines was killed, perhaps because memory ran out; "
            "run it again where more is free"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_checker: LineChecker
_ids: IdPartitions


def _begin_process(make_checker: Callable[[], LineChecker], make_ids: _IdsMaker) -> None:
    """In a process of the pool: what its portions share. Ctrl-C is the parent's business."""
    global _checker, _ids
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _checker, _ids = make_checker(), make_ids()
    Finalize(None, _checker.close, exitpriority=10)


def _check_portion(portion: InputRange) -> PortionReport:
    return _checker.check_portion(portion, _ids)


def _merge(reports: Iterable[PortionReport]) -> PortionReport:
    num_lines, reasons, faults = 0, Counter[str](), list[LineFault]()
    for report in reports:
        num_lines += report.num_lines
        reasons.update(report.reasons)
        faults.extend(report.faults[: MAX_FAULTS_SHOWN - len(faults)])
    return PortionReport(num_lines, dict(reasons), tuple(faults))


class _Words:
    """Names places as people do: file and line. Reads the input again, up to the places named."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self._files = files
        self._line_numbers = LineNumbers()

    def fault_of(self, repeat: Repeat) -> LineFault:
        message = (
            f"custom_id {self._custom_id_at(repeat.place)!r} is also that of "
            f"{self._place(repeat.first)}"
        )
        return LineFault(repeat.place, REPEATED_ID, message)

    def describe(self, fault: LineFault) -> str:
        return f"{self._place(fault.place)}: {fault.code}: {fault.message}"

    def _place(self, place: Place) -> str:
        file = self._files[place.file]
        return f"{file.name}:{self._line_numbers.line_number_of(file, place.offset)}"

    def _custom_id_at(self, place: Place) -> str | None:
        line_range = InputRange(0, self._files[place.file], place.offset, place.offset + 1)
        return next((read_custom_id(line.data) for line in RangeReader(line_range)), None)


def _num_text_bytes(files: Sequence[InputFile]) -> int:
    return sum(
        file.size_bytes * (_COMPRESSION_RATIO if file.is_compressed else 1) for file in files
    )


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
