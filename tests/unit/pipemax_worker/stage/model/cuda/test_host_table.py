"""A table that moves to host memory, and one that cannot."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from pipemax_worker.stage.model.cuda.host_table import HostTable, move_to_host

GATHER = "pipemax_worker.stage.model.cuda.row_gather"
TABLE = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def gather(table: torch.Tensor, row_numbers: torch.Tensor) -> torch.Tensor:
    """What the kernel does, by PyTorch."""
    return table[row_numbers.long()]


def use_kernel(monkeypatch: pytest.MonkeyPatch, kernel: object) -> None:
    module = ModuleType(GATHER)
    module.gather_rows = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, GATHER, module)


def test_its_rows_are_those_of_the_table() -> None:
    original = TABLE.clone()
    moved = HostTable(original, gather)
    original.zero_()
    ids = torch.tensor([8, 0, 3, 3])
    assert torch.equal(moved(ids), TABLE[ids])
    assert moved.num_bytes == TABLE.nbytes


def test_a_kernel_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch, gather)
    moved = move_to_host(TABLE)
    assert moved is not None
    assert torch.equal(moved(torch.tensor([2])), TABLE[2:3])


@pytest.mark.parametrize("lost_row", [0, 4, 8])
def test_a_kernel_that_reads_other_rows_is_not(
    lost_row: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(table: torch.Tensor, row_numbers: torch.Tensor) -> torch.Tensor:
        return gather(table, row_numbers).where(row_numbers[:, None] != lost_row, 0)

    use_kernel(monkeypatch, lose)
    assert move_to_host(TABLE) is None
    assert "stays on the GPU" in caplog.text
    assert "its rows come out wrong" in caplog.text


def test_without_triton(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, GATHER, raising=False)
    assert move_to_host(TABLE) is None
    assert "stays on the GPU" in caplog.text
