"""Offloading changes no bit: the same schedule with KV that stays and with KV that moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit.kv_replay import MovedKV, assert_replay_is_exact
from kit.models import save_model
from kit.paged_model import PagedModel

PROMPTS = [[5, 9, 2, 7, 30, 31], [8], list(range(3, 40))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize("layers", [(4,), (1, 3)])
def test_every_logit_and_every_byte_of_kv(
    folder: Path, tmp_path: Path, layers: tuple[int, ...]
) -> None:
    stays, moves = PagedModel(folder, layers), PagedModel(folder, layers)
    assert_replay_is_exact(stays, moves, tmp_path, PROMPTS, 6)


def test_a_block_that_comes_back_wrong_is_found(folder: Path, tmp_path: Path) -> None:
    stays, moves = PagedModel(folder, (4,)), PagedModel(folder, (4,))
    damaged = MovedKV.move

    def move(self: MovedKV) -> None:
        damaged(self)
        slot = moves._tables[2][0]
        moves.kv[0][slot].view(torch.uint8)[0, 0, 0, 0, 0] ^= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MovedKV, "move", move)
        with pytest.raises(AssertionError, match=r"step|request 2"):
            assert_replay_is_exact(stays, moves, tmp_path, PROMPTS, 3)
