"""The embedding in pinned host memory, looked up there by the GPU: bit for bit as on the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit.models import build_oracle
from kit.paged_model import PagedModel
from kit.prompts import tokens
from pipemax_worker.stage.model.checkpoint import Checkpoint
from pipemax_worker.stage.model.cuda.host_table import HostTable, move_to_host
from pipemax_worker.stage.model.cuda.row_gather import gather_rows
from pipemax_worker.stage.model.embedding import EMBEDDING, TokenEmbedding

CUDA = torch.device("cuda", 0)
BF16 = torch.bfloat16
SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
    "initializer_range": 0.06,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
TABLE_ROWS = 40_000


def table_of(width: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    generator = torch.Generator(CUDA).manual_seed(width)
    return torch.randn(TABLE_ROWS, width, generator=generator, device=CUDA).to(dtype)


def row_numbers(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator(CUDA).manual_seed(seed)
    return torch.randint(0, TABLE_ROWS, (count,), generator=generator, device=CUDA)


@pytest.mark.parametrize("dtype", [BF16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [576, 1300, 5120])
def test_rows_are_those_of_the_table(width: int, dtype: torch.dtype) -> None:
    table = table_of(width, dtype)
    moved = move_to_host(table)
    assert moved is not None, "see the log"
    for count in (1, 7, 256, 2048):
        ids = row_numbers(count, count)
        assert torch.equal(moved(ids), table[ids])
        assert torch.equal(moved(ids.to(torch.int32)), table[ids])


def test_a_graph_follows_the_row_numbers() -> None:
    """Captured with some, replayed with others that were made on the device."""
    table = table_of(5120)
    moved = HostTable(table, gather_rows)
    ids = torch.zeros(256, dtype=torch.int32, device=CUDA)
    moved(ids)  # loads the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows = moved(ids)
    for seed in range(4):
        ids.copy_(row_numbers(256, seed))
        graph.replay()
        assert torch.equal(rows, table[ids.long()])


def test_it_takes_no_memory_of_the_gpu() -> None:
    """Nor is it still pinned once it is gone: a second one is pinned as the first was."""
    for _ in range(3):
        before = torch.cuda.memory_allocated()
        table = table_of(5120)
        moved = move_to_host(table)
        assert moved is not None
        assert moved.num_bytes == 2 * TABLE_ROWS * 5120
        del table
        assert torch.cuda.memory_allocated() == before
        del moved


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3-moe"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2's table is tied to the LM head, of another stage here."""
    path = tmp_path_factory.mktemp(request.param)
    build_oracle(request.param, **SHAPE).to(BF16).save_pretrained(path)
    return path


def paged(folder: Path, *, on_device: bool, uses_graphs: bool = True) -> PagedModel:
    model = PagedModel(
        folder, (1, 3), device=CUDA, dtype=BF16, kv_dtype=BF16, block_tokens=16, num_slots=400
    )
    first = model.stages[0]
    assert first._embedding is not None
    assert first._embedding.table is None, "it lies on the GPU; see the log"
    if on_device:
        config = model.config
        table = Checkpoint(folder, CUDA, BF16).read(
            EMBEDDING, config.vocab_size, config.hidden_size
        )
        first._embedding = TokenEmbedding(table, lambda token_ids: F.embedding(token_ids, table))
    for stage in model.stages:
        assert stage._cuda is not None, "the fast kernels are not used; see the log"
        stage._cuda._uses_graphs = uses_graphs
    return model


PROMPTS = {n: tokens(length, n) for n, length in enumerate((500, 30, 1, 257, 90))}


def hidden_states(model: PagedModel) -> list[torch.Tensor]:
    """What the first stage sends on: of prompts, then of decoding rows that graphs replay."""
    sent = []
    for step in range(12):
        chunks = PROMPTS if step == 0 else {n: [7 * n + step] for n in PROMPTS}
        batch = model.batch(chunks)
        token_ids = torch.tensor([token for chunk in chunks.values() for token in chunk])
        sent.append(model.stages[0].forward(token_ids, batch, model.kv[0]).clone())
    return sent


@pytest.mark.parametrize("uses_graphs", [True, False])
def test_hidden_states_are_those_of_a_table_on_the_gpu(folder: Path, uses_graphs: bool) -> None:
    on_host = paged(folder, on_device=False, uses_graphs=uses_graphs)
    on_device = paged(folder, on_device=True, uses_graphs=uses_graphs)
    found, expected = hidden_states(on_host), hidden_states(on_device)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    assert torch.equal(on_host.kv[0][:-1], on_device.kv[0][:-1])
    steps = on_host.stages[0]._cuda
    assert steps is not None
    assert (steps._graphs.num_captured >= 1) == uses_graphs


def test_pytorchs_kernels_look_up_there_too(folder: Path) -> None:
    """Where FlashInfer cannot serve."""
    models = [paged(folder, on_device=on_device) for on_device in (False, True)]
    for model in models:
        for stage in model.stages:
            stage._cuda = None
    found, expected = map(hidden_states, models)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_the_weights_counted_are_those_on_the_gpu(folder: Path) -> None:
    on_host, on_device = (paged(folder, on_device=one).stages[0] for one in (False, True))
    assert on_device._embedding is not None
    assert on_device._embedding.table is not None
    assert on_device.weight_bytes - on_host.weight_bytes == on_device._embedding.table.nbytes
