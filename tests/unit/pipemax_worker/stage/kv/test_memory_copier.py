"""Copies between tiers in plain memory, compiled and not."""

from __future__ import annotations

import pytest
import torch
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, pack_int32
from pipemax_worker.stage.kv import copiers
from pipemax_worker.stage.kv.copiers import MemoryCopier

ROW_BYTES = 4096


@pytest.fixture(params=[True, False], ids=["compiled", "memmove"])
def is_compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(copiers, "load_library", lambda: None)
    return bool(request.param)


def rows(num_rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_rows, ROW_BYTES), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("sources", "targets"),
    [([], []), ([3], [0]), ([0, 1, 2, 3], [4, 5, 6, 7]), ([5, 1, 2, 9, 8], [0, 9, 8, 3, 4])],
)
def test_named_rows_are_copied_and_no_others(
    is_compiled: bool, sources: list[int], targets: list[int]
) -> None:
    source, target = rows(10, seed=1), rows(10, seed=2)
    expected = target.clone()
    expected[targets] = source[sources]
    copier = MemoryCopier(source, target)
    job = CopyJob(0, Tier.HOST, Tier.DEVICE, pack_int32(sources), pack_int32(targets))
    outcome = copier.copy(job, copier.mark())
    assert torch.equal(target, expected)
    assert outcome.failed == ()
    assert outcome.seconds >= 0
