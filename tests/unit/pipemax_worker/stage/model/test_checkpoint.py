"""Reading weights: only what is asked for, and errors that name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kit.models import build_oracle, save_model
from kit.paged_model import CPU, PagedModel
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.errors import ModelNotFoundError, UnsupportedModelError
from pipemax_worker.stage.model.checkpoint import INDEX_FILE, Checkpoint
from pipemax_worker.stage.model.model import StageModel
from safetensors.torch import load_file, save_file


def load_stage(folder: Path, first: int, count: int) -> StageModel:
    config = load_model_config(folder)
    is_last = first + count == config.num_hidden_layers
    weights = Checkpoint(folder, CPU, torch.float32)
    return StageModel(config, weights, first, count, first == 0, is_last, CPU, torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path, "llama")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_model(tmp_path, "llama", max_shard_size="20KB")


def shard_of(folder: Path, tensor: str) -> Path:
    weight_map = json.loads((folder / INDEX_FILE).read_text())["weight_map"]
    return folder / weight_map[tensor]


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        full_name = name.replace("__", ".")
        if tensor is None:
            del tensors[full_name]
        else:
            tensors[full_name] = tensor
    save_file(tensors, path)


def test_shards_and_a_single_file_are_the_same_model(sharded: Path, tmp_path: Path) -> None:
    single = save_model(tmp_path / "single", "llama")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    tokens = {0: [5, 9, 33, 20]}
    assert torch.equal(
        PagedModel(sharded, (2, 2)).forward(tokens), PagedModel(single, (4,)).forward(tokens)
    )


def test_a_stage_needs_only_the_shards_of_its_own_layers(sharded: Path) -> None:
    """All shards but those of layer 1 are gone; the stage that holds layer 1 starts."""
    weight_map = json.loads((sharded / INDEX_FILE).read_text())["weight_map"]
    own = {file for name, file in weight_map.items() if name.startswith("model.layers.1.")}
    for path in sharded.glob("*.safetensors"):
        if path.name not in own:
            path.unlink()
    assert load_stage(sharded, 1, 1).weight_bytes > 0
    with pytest.raises(ModelNotFoundError, match="not found"):
        load_stage(sharded, 2, 1)


class NotedWeights(Checkpoint):
    """Says what was read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CPU, torch.float32)
        self.names: list[str] = []

    def _mapped(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.names.append(name)
        return super()._mapped(name, shape)


def test_stages_cut_within_layers_read_every_tensor_once(folder: Path) -> None:
    """The first one leaves layer 1's MLP, with its norm, to the second."""
    config = load_model_config(folder)
    cut = ModelCut((2, 2), (True, False))
    read = []
    for stage in range(2):
        layers, weights = cut.layers(stage), NotedWeights(folder)
        first, count = layers.attention.start, len(layers.attention)
        StageModel(
            config, weights, first, count, stage == 0, stage == 1, CPU, torch.float32,
            mlp_layers=layers.mlp,
        )  # fmt: skip
        read.append(weights.names)
    assert sorted(read[0] + read[1]) == sorted(load_file(folder / "model.safetensors"))
    of_layer = [[name for name in names if ".layers.1." in name] for names in read]
    assert all("self_attn" in name or "input_layernorm" in name for name in of_layer[0])
    assert all("mlp" in name or "post_attention" in name for name in of_layer[1])
    assert min(map(len, of_layer)) > 1


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_the_ends_read_embedding_norm_and_head(name: str, tmp_path: Path) -> None:
    """By size: a middle stage has neither; a tied last stage has the embedding's tensor."""
    oracle = build_oracle(name)
    folder = save_model(tmp_path, name)
    layer_bytes = 4 * sum(p.numel() for p in oracle.model.layers[1].parameters())
    embedding_bytes = oracle.model.embed_tokens.weight.nbytes
    norm_bytes = oracle.model.norm.weight.nbytes
    assert load_stage(folder, 1, 2).weight_bytes == 2 * layer_bytes
    assert load_stage(folder, 0, 1).weight_bytes == layer_bytes + embedding_bytes
    assert load_stage(folder, 3, 1).weight_bytes == layer_bytes + embedding_bytes + norm_bytes


def test_a_half_precision_checkpoint_is_converted(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    path = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    checkpoint = Checkpoint(folder, CPU, torch.float32)
    norm = checkpoint.read("model.norm.weight", 32)
    assert norm.dtype == torch.float32
    assert torch.equal(norm, build_oracle("llama").model.norm.weight.bfloat16().float())


class TestErrors:
    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelNotFoundError, match=r"model\.safetensors: not found"):
            load_stage(folder, 0, 4)

    def test_missing_shard_is_named(self, sharded: Path) -> None:
        path = shard_of(sharded, "model.layers.2.mlp.up_proj.weight")
        path.unlink()
        with pytest.raises(ModelNotFoundError, match=f"{path.name}: not found"):
            load_stage(sharded, 0, 4)

    def test_damaged_shard_is_named(self, sharded: Path) -> None:
        path = shard_of(sharded, "model.layers.2.mlp.up_proj.weight")
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ModelNotFoundError, match=f"{path.name}: cannot be read"):
            load_stage(sharded, 0, 4)

    def test_missing_tensor_is_named(self, folder: Path) -> None:
        change_tensors(folder, model__layers__1__self_attn__k_proj__weight=None)
        with pytest.raises(
            ModelNotFoundError, match=r"tensor model\.layers\.1\.self_attn\.k_proj\.weight is mis"
        ):
            load_stage(folder, 0, 4)

    def test_tensor_that_its_shard_does_not_hold(self, sharded: Path) -> None:
        path = shard_of(sharded, "model.norm.weight")
        tensors = load_file(path)
        del tensors["model.norm.weight"]
        save_file(tensors, path)
        with pytest.raises(ModelNotFoundError, match=r"model\.norm\.weight is missing or damaged"):
            load_stage(sharded, 0, 4)

    def test_untied_without_head(self, folder: Path) -> None:
        change_tensors(folder, lm_head__weight=None)
        with pytest.raises(ModelNotFoundError, match=r"lm_head\.weight"):
            load_stage(folder, 0, 4)

    def test_wrong_shape_is_named(self, folder: Path) -> None:
        change_tensors(folder, model__layers__0__mlp__down_proj__weight=torch.zeros(32, 47))
        with pytest.raises(
            UnsupportedModelError,
            match=r"layers\.0\.mlp\.down_proj\.weight has shape \[32, 47\].*implies \[32, 48\]",
        ):
            load_stage(folder, 0, 4)

    @pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
    def test_damaged_index(self, sharded: Path, text: str) -> None:
        (sharded / INDEX_FILE).write_text(text)
        with pytest.raises(ModelNotFoundError, match="not a safetensors index"):
            load_stage(sharded, 0, 4)
