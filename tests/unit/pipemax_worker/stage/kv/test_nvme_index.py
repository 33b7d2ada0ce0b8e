"""A KV file that is parked and adopted: round trips, and everything that must not be believed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.kv_tiers import fill_with_random_bytes
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.memory import allocate_rows, row_buffers
from pipemax_worker.stage.kv.nvme import NVMeKVFile
from pipemax_worker.stage.kv.nvme_index import index_path, read_index, write_index

SLOT_BYTES = 4096
NUM_SLOTS = 5


def kv_path(folder: Path) -> Path:
    return folder / "stage-3.kv"


def park(folder: Path) -> torch.Tensor:
    """Slots 1, 2 and 4 are written; what is in the rows 0 to 2."""
    file = NVMeKVFile(kv_path(folder), NUM_SLOTS, SLOT_BYTES)
    rows = allocate_rows(3, SLOT_BYTES, "test")
    written = fill_with_random_bytes(rows, seed=1)
    assert file.write(1, row_buffers(rows, 0, 2)) == []
    assert file.write(4, row_buffers(rows, 2, 1)) == []
    file.park()
    file.close(remove=False)
    return written


def adopt(folder: Path, num_slots: int = NUM_SLOTS) -> NVMeKVFile:
    return NVMeKVFile(kv_path(folder), num_slots, SLOT_BYTES, adopt=True)


def test_what_was_parked_is_read_bit_by_bit(tmp_path: Path) -> None:
    written = park(tmp_path)
    file = adopt(tmp_path)
    assert file.adoption_fault is None
    rows = allocate_rows(3, SLOT_BYTES, "test")
    assert file.read(1, row_buffers(rows, 0, 2)) == []
    assert file.read(4, row_buffers(rows, 2, 1)) == []
    assert torch.equal(rows, written)
    assert file.read(0, row_buffers(rows, 0, 1)) == [0], "was never written"
    file.close()
    assert list(tmp_path.iterdir()) == [], "the index goes with its file"


def test_what_was_adopted_can_be_written_and_parked_again(tmp_path: Path) -> None:
    written = park(tmp_path)
    file = adopt(tmp_path)
    rows = allocate_rows(1, SLOT_BYTES, "test")
    fresh = fill_with_random_bytes(rows, seed=2)
    assert file.write(2, row_buffers(rows, 0, 1)) == []
    file.park()
    file.close(remove=False)
    file = adopt(tmp_path)
    rows = allocate_rows(2, SLOT_BYTES, "test")
    assert file.read(1, row_buffers(rows, 0, 2)) == []
    assert torch.equal(rows[0], written[0])
    assert torch.equal(rows[1], fresh[0])
    file.close()


def test_a_bit_that_flips_while_it_lies_there_is_found(tmp_path: Path) -> None:
    park(tmp_path)
    with kv_path(tmp_path).open("r+b") as raw:
        raw.seek(2 * SLOT_BYTES + 77)
        byte = raw.read(1)[0]
        raw.seek(2 * SLOT_BYTES + 77)
        raw.write(bytes([byte ^ 1]))
    file = adopt(tmp_path)
    assert file.read(1, row_buffers(allocate_rows(2, SLOT_BYTES, "test"), 0, 2)) == [1]
    file.close()


def tear(folder: Path) -> None:
    path = index_path(kv_path(folder))
    os.truncate(path, path.stat().st_size - 1)


def flip(folder: Path) -> None:
    path = index_path(kv_path(folder))
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def write_nonsense(folder: Path) -> None:
    index_path(kv_path(folder)).write_bytes(b"")


def remove_index(folder: Path) -> None:
    index_path(kv_path(folder)).unlink()


def remove_file(folder: Path) -> None:
    kv_path(folder).unlink()


def cut_file(folder: Path) -> None:
    os.truncate(kv_path(folder), SLOT_BYTES)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (tear, r"stage-3\.index: torn"),
        (flip, r"stage-3\.index: torn"),
        (write_nonsense, r"stage-3\.index: torn"),
        (remove_index, r"stage-3\.index: No such file"),
        (remove_file, r"stage-3\.kv: No such file"),
        (cut_file, r"stage-3\.kv: 4096 bytes, expected 20480"),
    ],
)
def test_damage_makes_an_empty_file_and_says_why(
    tmp_path: Path, damage: Callable[[Path], None], fault: str
) -> None:
    park(tmp_path)
    damage(tmp_path)
    with pytest.raises(KVTierError, match=fault):
        read_index(kv_path(tmp_path), NUM_SLOTS, SLOT_BYTES)
    file = adopt(tmp_path)
    assert file.adoption_fault is not None
    rows = allocate_rows(1, SLOT_BYTES, "test")
    assert file.read(1, row_buffers(rows, 0, 1)) == [0], "nothing is believed"
    assert file.write(1, row_buffers(rows, 0, 1)) == []
    assert kv_path(tmp_path).stat().st_size == NUM_SLOTS * SLOT_BYTES
    file.close()


def test_another_geometry_is_another_file(tmp_path: Path) -> None:
    park(tmp_path)
    file = adopt(tmp_path, NUM_SLOTS + 1)
    assert "5 slots of 4096 bytes, now 6 of 4096" in (file.adoption_fault or "")
    file.close()


def test_a_disk_that_refuses_the_index_is_a_tier_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = NVMeKVFile(kv_path(tmp_path), NUM_SLOTS, SLOT_BYTES)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(KVTierError, match=r"stage-3\.kv cannot be parked: No space"):
        file.park()
    monkeypatch.undo()
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_an_index_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_index(kv_path(tmp_path), SLOT_BYTES, [1, None])
    assert list(tmp_path.iterdir()) == []


def refuse(descriptor: int) -> None:
    raise OSError(28, "No space left on device")
