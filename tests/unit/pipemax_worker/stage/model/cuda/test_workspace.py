"""Shared memory grows in large steps, and never shrinks."""

from __future__ import annotations

from pathlib import Path

import torch
from kit.models import save_model
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.stage.model.cuda.workspace import Capacity, Workspace

CAPACITY = Capacity(rows=10, words=100, partial_results=20)


def test_it_grows_only_where_it_must() -> None:
    assert CAPACITY.holds(Capacity(10, 100, 20))
    assert CAPACITY.grown_for(Capacity(1, 100, 20)) is CAPACITY
    assert not CAPACITY.holds(Capacity(11, 1, 1))
    assert CAPACITY.grown_for(Capacity(11, 1, 1)) == Capacity(22, 100, 20)
    assert CAPACITY.grown_for(Capacity(1, 101, 21)) == Capacity(10, 202, 21)


def test_words_are_copied_to_the_device(tmp_path: Path) -> None:
    config = load_model_config(save_model(tmp_path, "llama"))
    workspace = Workspace(config, CAPACITY, torch.device("cpu"), torch.float32)
    workspace.begin_words()[:3] = [5, 6, 7]
    workspace.send_words(2)
    assert workspace.words[:4].tolist() == [5, 6, 0, 0]


def test_words_go_by_a_kernel_if_there_is_one(tmp_path: Path) -> None:
    def copy_words(target: torch.Tensor, source: torch.Tensor, num_words: int) -> None:
        target[:num_words] = source[:num_words] + 1

    config = load_model_config(save_model(tmp_path, "llama"))
    workspace = Workspace(config, CAPACITY, torch.device("cpu"), torch.float32, copy_words)
    workspace.begin_words()[:3] = [5, 6, 7]
    workspace.send_words(2)
    assert workspace.words[:4].tolist() == [6, 7, 0, 0]


def test_partial_results_and_their_scores_have_room(tmp_path: Path) -> None:
    config = load_model_config(save_model(tmp_path, "llama"))
    workspace = Workspace(config, CAPACITY, torch.device("cpu"), torch.bfloat16)
    heads, head_dim = config.num_attention_heads, config.head_dim
    assert workspace.scores_offset_bytes == 20 * heads * head_dim * 2
    for part in workspace.partial_results:
        assert part.nbytes == workspace.scores_offset_bytes + 20 * heads * 4
    assert workspace.row_numbers.tolist() == list(range(11))
    assert workspace.ones.tolist() == [1] * 10
