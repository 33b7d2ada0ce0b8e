"""On a replayed schedule KV and logits are bit-equal with offloading on and off, by the GPU's own
kernels and graphs, through pinned memory and NVMe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit.kv_replay import assert_replay_is_exact
from kit.models import build_oracle
from kit.paged_model import PagedModel
from kit.prompts import tokens

CUDA = torch.device("cuda", 0)
BF16 = torch.bfloat16


PROMPTS = [tokens(length, n) for n, length in enumerate((700, 30, 1, 257, 90))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen2")
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}
    model = build_oracle("qwen2", **shape, **heads, max_position_embeddings=2048)
    model.to(BF16).save_pretrained(path)
    return path


@pytest.mark.parametrize("layers", [(4,), (1, 3)])
@pytest.mark.parametrize("kv_dtype", [BF16, torch.float8_e4m3fn])
def test_every_logit_and_every_byte_of_kv(
    folder: Path, tmp_path: Path, layers: tuple[int, ...], kv_dtype: torch.dtype
) -> None:
    stays, moves = (
        PagedModel(
            folder, layers, device=CUDA, dtype=BF16, kv_dtype=kv_dtype, block_tokens=16,
            num_slots=300,
        )
        for _ in range(2)
    )  # fmt: skip
    assert all(stage._cuda is not None for stage in moves.stages), "no fast kernels; see the log"
    assert_replay_is_exact(stays, moves, tmp_path, PROMPTS, 10)
