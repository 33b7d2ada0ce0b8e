"""The NVMe file: round trips on both I/O paths, damage found, clear errors, nothing left behind."""

import errno
import os
from pathlib import Path

import pytest
import torch
from kit.kv_tiers import fill_with_random_bytes
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.memory import allocate_rows, row_buffers
from pipemax_worker.stage.kv.nvme import NVMeKVFile

SLOT_BYTES = 8192


@pytest.fixture(params=[True, False], ids=["direct", "buffered"])
def kv_file(request: pytest.FixtureRequest, tmp_path: Path) -> NVMeKVFile:
    return NVMeKVFile(tmp_path / "stage-0.kv", 6, SLOT_BYTES, direct=request.param)


def flip_bit(file: NVMeKVFile, slot: int, byte: int) -> None:
    with file.path.open("r+b") as raw:
        raw.seek(slot * SLOT_BYTES + byte)
        value = raw.read(1)[0]
        raw.seek(slot * SLOT_BYTES + byte)
        raw.write(bytes([value ^ 0x10]))
        raw.flush()
        os.fsync(raw.fileno())


def test_round_trip_is_bit_exact(kv_file: NVMeKVFile) -> None:
    rows = allocate_rows(6, SLOT_BYTES, "test")
    written = fill_with_random_bytes(rows, seed=1)
    assert kv_file.write(0, row_buffers(rows, 0, 4)) == []
    assert kv_file.write(5, row_buffers(rows, 5, 1)) == []
    rows.zero_()
    assert kv_file.read(0, row_buffers(rows, 0, 4)) == []
    assert kv_file.read(5, row_buffers(rows, 4, 1)) == []
    assert torch.equal(rows[:4], written[:4])
    assert torch.equal(rows[4], written[5])


@pytest.mark.parametrize("byte", [0, 4095, SLOT_BYTES - 1])
def test_a_flipped_bit_is_found_and_the_others_are_good(kv_file: NVMeKVFile, byte: int) -> None:
    rows = allocate_rows(4, SLOT_BYTES, "test")
    written = fill_with_random_bytes(rows, seed=2)
    kv_file.write(1, row_buffers(rows, 0, 4))
    flip_bit(kv_file, slot=3, byte=byte)
    rows.zero_()
    assert kv_file.read(1, row_buffers(rows, 0, 4)) == [2]
    assert torch.equal(rows[[0, 1, 3]], written[[0, 1, 3]])


def test_overwritten_slots_have_their_new_checksum(kv_file: NVMeKVFile) -> None:
    rows = allocate_rows(2, SLOT_BYTES, "test")
    fill_with_random_bytes(rows, seed=3)
    kv_file.write(0, row_buffers(rows, 0, 1))
    kv_file.write(0, row_buffers(rows, 1, 1))
    assert kv_file.read(0, row_buffers(rows, 0, 1)) == []
    assert torch.equal(rows[0], rows[1])


def test_a_slot_never_written_cannot_be_read(kv_file: NVMeKVFile) -> None:
    assert kv_file.read(2, row_buffers(allocate_rows(1, SLOT_BYTES, "test"), 0, 1)) == [0]


def test_a_truncated_file_fails_only_the_lost_slots(kv_file: NVMeKVFile) -> None:
    rows = allocate_rows(4, SLOT_BYTES, "test")
    fill_with_random_bytes(rows, seed=4)
    kv_file.write(0, row_buffers(rows, 0, 4))
    os.truncate(kv_file.path, 2 * SLOT_BYTES)
    assert kv_file.read(0, row_buffers(rows, 0, 4)) == [2, 3]


def test_an_io_error_is_a_failed_slot(kv_file: NVMeKVFile, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = allocate_rows(3, SLOT_BYTES, "test")
    write = os.pwritev

    def write_with_bad_sector(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset <= SLOT_BYTES < offset + len(buffers) * SLOT_BYTES:
            raise OSError(errno.EIO, "bad sector")
        return write(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", write_with_bad_sector)
    assert kv_file.write(0, row_buffers(rows, 0, 3)) == [1]
    monkeypatch.undo()
    assert kv_file.read(0, row_buffers(rows, 0, 3)) == [1]


def test_all_space_is_allocated_at_start(kv_file: NVMeKVFile) -> None:
    status = kv_file.path.stat()
    assert status.st_size == 6 * SLOT_BYTES
    assert status.st_blocks * 512 >= 6 * SLOT_BYTES
    assert status.st_mode & 0o777 == 0o600


def test_a_full_disk_names_path_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    path = tmp_path / "stage-0.kv"
    with pytest.raises(KVTierError, match=rf"{path} of 49152 bytes .*No space left"):
        NVMeKVFile(path, 6, SLOT_BYTES)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_not_filled_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("the disk is being filled"))
    statistics = os.statvfs(tmp_path)
    num_slots = 2 * statistics.f_blocks * statistics.f_frsize // SLOT_BYTES
    with pytest.raises(KVTierError, match=r"lower kvCache\.nvme\.size"):
        NVMeKVFile(tmp_path / "stage-0.kv", num_slots, SLOT_BYTES)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_tier_error(tmp_path: Path) -> None:
    with pytest.raises(KVTierError, match="No such file"):
        NVMeKVFile(tmp_path / "missing" / "stage-0.kv", 6, SLOT_BYTES)


def test_without_o_direct_the_file_is_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems refuse the flag when the file is opened, or with the first read."""
    open_file = os.open

    def open_without_direct(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return open_file(path, flags, mode)

    monkeypatch.setattr(os, "open", open_without_direct)
    assert not NVMeKVFile(tmp_path / "flag.kv", 6, SLOT_BYTES).is_direct
    monkeypatch.undo()

    def refuse(fd: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "preadv", refuse)
    assert not NVMeKVFile(tmp_path / "read.kv", 6, SLOT_BYTES).is_direct


def test_close_removes_the_file_or_leaves_it(tmp_path: Path) -> None:
    for remove in (True, False):
        file = NVMeKVFile(tmp_path / f"{remove}.kv", 1, SLOT_BYTES)
        file.close(remove=remove)
        file.close(remove=remove)
    assert [path.name for path in tmp_path.iterdir()] == ["False.kv"]
