"""`kvCache.nvme.writesPerDay`: how much this node has written to the job's NVMe tier lately.

Kept in a file beside the runs' folders, so that it outlives restarts, and shared by all workers of
the job on the node. Bytes are counted there *before* they are written, a portion at a time: a
worker that is killed has counted too much, never too little.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pipemax_worker.errors import KVTierError
from pipemax_worker.runner.nvme_folder import RunFolder

FILE_NAME = "pipemax-writes.json"
HOURS = 25
"""A day and the hour that has begun: no 24 hours, wherever they start, see more than the limit."""

_PORTIONS_PER_DAY = 256


class _Log(msgspec.Struct):
    """Hour since 1970 -> bytes."""

    hours: dict[int, int] = {}


class WriteBudget:
    """``take`` bytes before they are written. ``wall_seconds``: since 1970, as ``time.time``."""

    def __init__(self, folder: Path, bytes_per_day: int, wall_seconds: Callable[[], float]) -> None:
        self._path = folder / FILE_NAME
        self._bytes_per_day = bytes_per_day
        self._wall_seconds = wall_seconds
        self._taken_bytes = 0  # of the file, and not used yet
        self._log = _Log()
        with self._locked_log():
            pass

    def available_bytes(self) -> int:
        """As far as this worker knows: without a look at the file."""
        return self._taken_bytes + self._left_bytes(self._log)

    def take(self, num_bytes: int) -> bool:
        """Count them as written; False, and nothing counted, if they are too many for today, or if
        the file cannot be written."""
        missing_bytes = num_bytes - self._taken_bytes
        if missing_bytes > 0 and not self._take_portion(missing_bytes):
            return False
        self._taken_bytes -= num_bytes
        return True

    def give_back(self, num_bytes: int) -> None:
        """They were taken and are not written after all."""
        self._taken_bytes += num_bytes

    def close(self) -> None:
        """What was taken of the file and not used is others' again. Raises nothing."""
        with contextlib.suppress(OSError), self._locked_log() as log:
            for hour in sorted(log.hours, reverse=True):
                unused = min(self._taken_bytes, log.hours[hour])
                log.hours[hour] -= unused
                self._taken_bytes -= unused

    def _take_portion(self, missing_bytes: int) -> bool:
        try:
            with self._locked_log() as log:
                left_bytes = self._left_bytes(log)
                if left_bytes < missing_bytes:
                    return False
                portion = max(missing_bytes, self._bytes_per_day // _PORTIONS_PER_DAY)
                portion = min(portion, left_bytes)
                hour = self._hour()
                log.hours[hour] = log.hours.get(hour, 0) + portion
        except OSError:
            return False
        self._taken_bytes += portion
        return True

    def _left_bytes(self, log: _Log) -> int:
        """Hours to come count too: a clock that was put back gives nothing away."""
        oldest = self._hour() - HOURS
        used = sum(num_bytes for hour, num_bytes in log.hours.items() if hour > oldest)
        return max(0, self._bytes_per_day - used)

    def _hour(self) -> int:
        return int(self._wall_seconds() // 3600)

    @contextlib.contextmanager
    def _locked_log(self) -> Iterator[_Log]:
        """The file's content, written back after the block as far as it changed. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            data = file.read()
            log = _decode(data)
            yield log
            oldest = self._hour() - HOURS
            log.hours = {h: n for h, n in log.hours.items() if h > oldest and n > 0}
            if (changed := msgspec.json.encode(log)) != data:
                file.seek(0)
                file.write(changed)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            self._log = log


def _decode(data: bytes) -> _Log:
    """A file that was torn by a power cut counts for nothing."""
    try:
        return msgspec.json.decode(data, type=_Log)
    except msgspec.DecodeError:
        return _Log()


@contextlib.contextmanager
def open_write_budget(
    folder: RunFolder | None,
    bytes_per_day: int | None,
    wall_seconds: Callable[[], float] = time.time,
) -> Iterator[WriteBudget | None]:
    """None where nothing is limited. Kept beside the run's ``folder``, or in it if that does not
    outlive the container. Raises KVTierError."""
    if folder is None or bytes_per_day is None:
        yield None
        return
    place = folder.path.parent if folder.is_lasting else folder.path
    try:
        budget = WriteBudget(place, bytes_per_day, wall_seconds)
    except OSError as error:
        raise KVTierError(
            f"kvCache.nvme.writesPerDay: {place / FILE_NAME}: {error.strerror}; it must be "
            "readable and writable for the worker"
        ) from error
    try:
        yield budget
    finally:
        budget.close()


class BlockWrites:
    """A ``WriteAllowance`` of the block manager: ``budget`` in blocks of ``block_bytes``."""

    def __init__(self, budget: WriteBudget, block_bytes: int) -> None:
        self._budget = budget
        self._block_bytes = block_bytes

    def num_blocks(self, at_most: int) -> int:
        return min(at_most, self._budget.available_bytes() // self._block_bytes)

    def take(self, num_blocks: int) -> bool:
        return self._budget.take(num_blocks * self._block_bytes)

    def give_back(self, num_blocks: int) -> None:
        self._budget.give_back(num_blocks * self._block_bytes)
