"""Random weights: one model for a seed, however it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit.models import save_model
from kit.paged_model import CPU
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import build_batch
from pipemax_worker.stage.kv.device import DeviceKVCache
from pipemax_worker.stage.model.model import StageModel
from pipemax_worker.stage.model.random_weights import RandomWeights

NAME = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return load_model_config(save_model(tmp_path, "llama"))


def weights(seed: int = 0) -> RandomWeights:
    return RandomWeights(seed, CPU, torch.float32)


def logits_of(config: ModelConfig, layers_of_stage: tuple[int, ...]) -> torch.Tensor:
    rows = ScheduledRequest(0, 0, 5, None, pack_int32([1, 0]), True)
    batch = build_batch([rows], 4, CPU)
    hidden, first = torch.arange(5), 0
    for stage, count in enumerate(layers_of_stage):
        geometry = KVGeometry(
            4, "float32", config.num_key_value_heads, config.head_dim, layers_of_stage, 2, 0, 0
        )
        kv = DeviceKVCache(geometry, stage, CPU).blocks
        is_last = stage == len(layers_of_stage) - 1
        model = StageModel(config, weights(), first, count, stage == 0, is_last, CPU, torch.float32)
        hidden = model.forward(hidden, batch, kv)
        first += count
    return hidden


def test_a_tensor_depends_on_its_name_and_the_seed_alone() -> None:
    used = weights()
    used.read("another.weight", 3, 3)
    assert torch.equal(used.read(NAME, 4, 8), weights().read(NAME, 4, 8))
    assert not torch.equal(weights().read(NAME, 4, 8), weights(1).read(NAME, 4, 8))
    assert not torch.equal(weights().read(NAME, 4, 8), weights().read("x.weight", 4, 8))


def test_stacked_tensors_are_those_read_by_themselves() -> None:
    stacked = weights().read_stacked({"a.weight": 2, "b.weight": 3}, 16)
    single = [weights().read("a.weight", 2, 16), weights().read("b.weight", 3, 16)]
    assert torch.equal(stacked, torch.cat(single))


def test_a_model_is_the_same_however_it_is_cut(config: ModelConfig) -> None:
    num_layers = config.num_hidden_layers
    whole = logits_of(config, (num_layers,))
    cut = logits_of(config, (1, num_layers - 1))
    assert torch.equal(whole.argmax(-1), cut.argmax(-1))
    torch.testing.assert_close(whole, cut)


def test_norms_are_one_and_matrices_keep_the_variance() -> None:
    assert torch.equal(weights().read("model.norm.weight", 8), torch.ones(8))
    matrix = weights().read(NAME, 512, 512)
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    assert (x @ matrix.T).std().item() == pytest.approx(1.0, rel=0.1)
