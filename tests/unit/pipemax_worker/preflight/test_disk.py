"""The trial of a disk is short, leaves nothing behind, and says why it could not be made."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from pipemax_worker.preflight import disk
from pipemax_worker.preflight.disk import CHUNK_BYTES, measure_nvme


def test_a_disk_has_room_and_speed(tmp_path: Path) -> None:
    found = measure_nvme(tmp_path, 2 * CHUNK_BYTES)
    assert found.fault is None
    assert found.free_bytes > 2 * CHUNK_BYTES
    assert found.write_bytes_per_second is not None
    assert found.read_bytes_per_second is not None
    assert found.write_bytes_per_second > 0
    assert found.read_bytes_per_second > 0
    assert not list(tmp_path.iterdir())


class Writes:
    """Counts bytes on their way to the disk; a clock that only writes move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds_per_write: float) -> None:
        self.num_bytes, self.now = 0, 0.0
        self._seconds = seconds_per_write
        self._pwrite = os.pwrite
        monkeypatch.setattr(disk.os, "pwrite", self.write)

    def write(self, fd: int, chunk: object, offset: int) -> int:
        written = self._pwrite(fd, chunk, offset)  # type: ignore[arg-type]
        self.num_bytes += written
        self.now += self._seconds
        return written


def test_the_trial_ends_by_bytes_and_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Writes(monkeypatch, 0.001)
    found = measure_nvme(tmp_path, 4 * CHUNK_BYTES + 1, monotonic=lambda: fast.now)
    assert fast.num_bytes == 4 * CHUNK_BYTES
    assert found.write_bytes_per_second == pytest.approx(CHUNK_BYTES / 0.001)
    slow = Writes(monkeypatch, 10.0)
    found = measure_nvme(tmp_path, 4 * CHUNK_BYTES, monotonic=lambda: slow.now)
    assert slow.num_bytes == CHUNK_BYTES
    assert found.write_bytes_per_second == pytest.approx(CHUNK_BYTES / 10)


def test_a_disk_that_is_nearly_full_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_free_bytes", lambda _: 2 * CHUNK_BYTES - 1)
    found = measure_nvme(tmp_path)
    assert found.free_bytes == 2 * CHUNK_BYTES - 1
    assert (found.fault, found.write_bytes_per_second) == (None, None)


def test_parked_files_are_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "stage-0.kv", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 64 << 20)
    # Others write to this disk meanwhile.
    monkeypatch.setattr(disk, "_free_bytes", lambda _: 1 << 30)
    found = measure_nvme(tmp_path, CHUNK_BYTES).free_bytes - (1 << 30)
    assert 64 << 20 <= found < 65 << 20, "what the tier's own files take up counts as free"


def test_without_direct_io_the_cache_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL:
            raise OSError(22, "Invalid argument")
        return 0

    synced: list[int] = []
    monkeypatch.setattr(disk.fcntl, "fcntl", refuse)
    monkeypatch.setattr(disk.os, "fsync", synced.append)
    found = measure_nvme(tmp_path, CHUNK_BYTES)
    assert (found.is_direct, len(synced)) == (False, 1)
    assert found.write_bytes_per_second is not None


def test_why_a_folder_cannot_be_written(tmp_path: Path) -> None:
    assert measure_nvme(tmp_path / "none").fault == "No such file or directory"
    (tmp_path / "file").touch()
    assert measure_nvme(tmp_path / "file").fault == "Not a directory"


def test_a_disk_that_fails_while_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.os, "pwrite", fail)
    assert measure_nvme(tmp_path).fault == "Input/output error"
    assert not list(tmp_path.iterdir())
