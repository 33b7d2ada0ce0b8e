"""Where the embedding lies, and that a model does not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from kit.paged_model import CPU, PagedModel
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.model import embedding
from pipemax_worker.stage.model.checkpoint import Checkpoint
from pipemax_worker.stage.model.cuda.host_table import HostTable
from pipemax_worker.stage.model.embedding import TokenEmbedding, read_embedding

CUDA = torch.device("cuda", 0)
FolderOf = Callable[[str], Path]


def move(table: torch.Tensor) -> HostTable:
    """As onto a GPU that can read there."""
    return HostTable(table, lambda rows, numbers: rows[numbers.long()])


def read(
    model: PagedModel, folder: Path, device: torch.device, **changes: object
) -> TokenEmbedding:
    config: ModelConfig = msgspec.structs.replace(model.config, **changes)
    weights = Checkpoint(folder, CPU, torch.float32)
    return read_embedding(config, weights, device, is_only_stage=len(model.stages) == 1)


@pytest.mark.parametrize(
    ("device", "layers", "is_tied", "is_on_host"),
    [
        (CUDA, (4,), False, True),
        (CUDA, (4,), True, False),
        (CUDA, (2, 2), True, True),
        (CPU, (4,), False, False),
    ],
)
def test_the_choice(
    device: torch.device,
    layers: tuple[int, ...],
    is_tied: bool,
    is_on_host: bool,
    model_folder: FolderOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "move_to_host", move)
    folder = model_folder("llama")
    model = PagedModel(folder, layers)
    found = read(model, folder, device, tie_word_embeddings=is_tied)
    assert (found.table is None) == is_on_host
    table_bytes = 4 * model.config.embedding_parameters
    assert found.weight_bytes == (0 if is_on_host else table_bytes)


def test_where_the_gpu_cannot_read_there_it_stays(
    model_folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "move_to_host", lambda table: None)
    folder = model_folder("llama")
    model = PagedModel(folder, (2, 2))
    found = read(model, folder, CUDA, tie_word_embeddings=False)
    assert found.table is not None
    assert torch.equal(found(torch.tensor([3, 1])), found.table[[3, 1]])


@pytest.mark.parametrize("layers", [(4,), (1, 3)])
def test_the_model_computes_the_same(
    layers: tuple[int, ...], model_folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its first stage's weights are the table less."""
    monkeypatch.setattr(embedding, "move_to_host", move)
    folder = model_folder("llama-bias")
    ours, reference = PagedModel(folder, layers), PagedModel(folder, layers)
    first = ours.stages[0]
    first._embedding = read(ours, folder, CUDA, tie_word_embeddings=False)
    assert first._embedding.table is None
    for chunks in ({0: [5, 6, 7], 1: [8]}, {0: [9], 1: [1]}):
        assert torch.equal(ours.forward(chunks), reference.forward(chunks))
    table_bytes = 4 * ours.config.embedding_parameters
    assert first.weight_bytes == reference.stages[0].weight_bytes - table_bytes
