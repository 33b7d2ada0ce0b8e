"""From a job's sizes to geometry and stage configurations."""

from pathlib import Path

import msgspec
import pytest
from kit.fake_model import fake_model_config
from kit.pipeline_driver import make_settings
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.model_config import ModelConfig, parse_model_config
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.contract.weights import device_weight_bytes, weight_bytes
from pipemax_worker.errors import KVTierError, StageDiedError
from pipemax_worker.pipeline.cores import available_cores
from pipemax_worker.pipeline.settings import (
    CUDA_RESERVE_BYTES,
    PipelineSettings,
    activation_bytes,
    build_geometry,
    build_stage_configs,
)

GIB = 1 << 30


def on_gpu(**changes: object) -> PipelineSettings:
    """Qwen2.5-32B's shape in bfloat16."""
    config = msgspec.structs.replace(
        fake_model_config(64),
        hidden_size=5120,
        intermediate_size=27648,
        num_attention_heads=40,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=152064,
    )
    settings = msgspec.structs.replace(
        make_settings(4, model_config=config),
        device="cuda",
        device_kv_bytes=None,
        dtype="bfloat16",
        kv_dtype="bfloat16",
        block_tokens=16,
    )
    return msgspec.structs.replace(settings, **changes)


def test_slots_are_what_the_bytes_hold(tmp_path: Path) -> None:
    settings = make_settings(2, folder=tmp_path)
    geometry = build_geometry(settings)
    assert geometry.layers_of_stage == (2, 2)
    slot_bytes = geometry.slot_bytes(0)
    assert geometry.num_device_slots == (1 << 19) // slot_bytes
    assert geometry.num_host_slots == (2 << 19) // (2 * slot_bytes)
    assert geometry.num_nvme_slots == geometry.num_host_slots


def test_the_stage_with_most_layers_decides_the_device_slots() -> None:
    settings = make_settings(2, model_config=fake_model_config(5))
    geometry = build_geometry(settings)
    most = max(range(2), key=lambda stage: geometry.layers_of_stage[stage])
    assert geometry.num_device_slots == (1 << 19) // geometry.slot_bytes(most)


def test_no_nvme_folder_no_nvme_tier() -> None:
    settings = make_settings(2)
    geometry = build_geometry(settings)
    assert geometry.num_nvme_slots == 0
    assert [config.nvme_path for config in build_stage_configs(settings, geometry)] == [None] * 2


def test_the_cpu_has_a_fixed_device_tier() -> None:
    settings = msgspec.structs.replace(make_settings(2), device_kv_bytes=None)
    geometry = build_geometry(settings)
    assert geometry.num_device_slots == GIB // 2 // geometry.slot_bytes(0)


def test_a_gpu_gives_what_weights_and_buffers_leave() -> None:
    settings = on_gpu(memory_fraction=0.9)
    geometry = build_geometry(settings, [24 * GIB] * 4)
    rooms = [
        int(24 * GIB * 0.9)
        - device_weight_bytes(settings.model_config, geometry.cut, stage, "bfloat16", "cuda")
        - activation_bytes(settings, stage)
        - CUDA_RESERVE_BYTES
        for stage in range(4)
    ]
    slots = [room // geometry.slot_bytes(stage) for stage, room in enumerate(rooms)]
    assert geometry.num_device_slots == min(slots)
    assert 50_000 < geometry.num_device_slots * 16 < 120_000  # tokens


def test_the_embedding_takes_no_room_from_kv() -> None:
    """Its rows are looked up in host memory, unless the only stage multiplies with the table."""
    config = msgspec.structs.replace(fake_model_config(8), vocab_size=200_000, hidden_size=4096)

    def num_slots(is_tied: bool, num_stages: int) -> int:
        tied = msgspec.structs.replace(config, tie_word_embeddings=is_tied)
        settings = on_gpu(model_config=tied, num_stages=num_stages)
        return build_geometry(settings, [24 * GIB] * num_stages).num_device_slots

    assert num_slots(is_tied=False, num_stages=1) == num_slots(is_tied=True, num_stages=1)
    assert num_slots(is_tied=False, num_stages=2) == num_slots(is_tied=True, num_stages=2)


def test_a_memory_limit_counts_as_the_gpus_size() -> None:
    limited = build_geometry(on_gpu(memory_limit_bytes=24 * GIB), [140 * GIB] * 4)
    assert limited == build_geometry(on_gpu(), [24 * GIB] * 4)


def test_the_smallest_gpu_decides() -> None:
    mixed = build_geometry(on_gpu(), [48 * GIB, 24 * GIB, 48 * GIB, 48 * GIB])
    roomy = build_geometry(on_gpu(), [48 * GIB] * 4)
    assert mixed.num_device_slots < roomy.num_device_slots


def test_layers_go_where_there_is_room_for_kv() -> None:
    """A stage whose GPU is smaller gets fewer, and all stages more KV for it."""
    memory = [24 * GIB, 21 * GIB, 24 * GIB, 24 * GIB]
    geometry = build_geometry(on_gpu(), memory)
    assert geometry.layers_of_stage[1] == min(geometry.layers_of_stage)
    even = build_geometry(on_gpu(layers_of_stage=(16, 16, 16, 16)), memory)
    assert geometry.num_device_slots > even.num_device_slots


def test_layers_are_cut_in_two_where_kv_has_more_room_for_it() -> None:
    """As many layers a stage as before, and the last one's MLP at the neighbour's."""
    memory = [24 * GIB] * 4
    geometry = build_geometry(on_gpu(), memory)
    assert any(geometry.mlp_left_by_stage)
    for layers in ((17, 16, 16, 15), (16, 16, 16, 16), (16, 17, 16, 15)):
        whole = build_geometry(on_gpu(layers_of_stage=layers), memory)
        assert whole.cut == ModelCut(layers)
        assert whole.num_device_slots < geometry.num_device_slots
    again = on_gpu(
        layers_of_stage=geometry.layers_of_stage, mlp_left_by_stage=geometry.mlp_left_by_stage
    )
    assert build_geometry(again, memory) == geometry


def test_the_jobs_own_split_is_taken(tmp_path: Path) -> None:
    settings = make_settings(3, folder=tmp_path, model_config=fake_model_config(7))
    settings = msgspec.structs.replace(settings, layers_of_stage=(1, 5, 1))
    geometry = build_geometry(settings)
    assert geometry.layers_of_stage == (1, 5, 1)
    configs = build_stage_configs(settings, geometry)
    assert [config.first_layer for config in configs] == [0, 1, 6]


def test_a_fixed_device_tier_is_split_by_time_alone() -> None:
    """Its room does not depend on the weights."""
    fixed = on_gpu(device_kv_bytes=1 << 30)
    small_first = build_geometry(fixed, [20 * GIB, *[80 * GIB] * 3])
    assert small_first.layers_of_stage == (17, 16, 16, 15)


class TestExperts:
    """Layers 1 and 3 of four have eight experts, of which a token takes two."""

    CONFIG = parse_model_config(
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "vocab_size": 100,
            "hidden_size": 64,
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "decoder_sparse_step": 2,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        },
        "config.json",
    )
    ATTENTION, TABLE = 4 * 64 * 64, 100 * 64
    DENSE, EXPERTS = 3 * 64 * 96, 8 * 3 * 64 * 32 + 8 * 64

    def test_weights_of_each_stage(self) -> None:
        cut = ModelCut((1, 1, 2))
        found = [weight_bytes(self.CONFIG, cut, stage, "bfloat16") for stage in range(3)]
        assert found == [
            2 * (self.ATTENTION + self.DENSE + self.TABLE),
            2 * (self.ATTENTION + self.EXPERTS),
            2 * (2 * self.ATTENTION + self.DENSE + self.EXPERTS + self.TABLE),
        ]

    def test_temporaries_of_the_widest_layer(self) -> None:
        settings = make_settings(2, model_config=self.CONFIG)
        rows = settings.max_batched_tokens * 4
        of_experts = 2 * (3 * 32 + 64)
        assert activation_bytes(settings, 0) == rows * (6 * 64 + of_experts)
        wide = msgspec.structs.replace(self.CONFIG, intermediate_size=200)
        settings = msgspec.structs.replace(settings, model_config=wide)
        assert activation_bytes(settings, 0) == rows * (6 * 64 + 3 * 200)


def test_weights_that_do_not_fit_are_named_in_the_error() -> None:
    with pytest.raises(KVTierError, match=r"stage 0: weights of 1\d\.\d GiB .* use more stages"):
        build_geometry(on_gpu(), [16 * GIB] * 4)


def test_more_stages_than_gpus() -> None:
    with pytest.raises(StageDiedError, match="4 stages need as many GPUs, and 1 are visible"):
        build_geometry(on_gpu(), [24 * GIB])


def test_a_device_tier_without_room_for_a_block() -> None:
    with pytest.raises(KVTierError, match="holds no block"):
        build_geometry(make_settings(2, device_kv_bytes=100))


def test_tied_embeddings_are_held_once_by_a_single_stage() -> None:
    config = msgspec.structs.replace(fake_model_config(4), tie_word_embeddings=True)
    table = config.embedding_parameters * 4
    alone = weight_bytes(config, ModelCut((4,)), 0, "float32")
    split = sum(weight_bytes(config, ModelCut((2, 2)), stage, "float32") for stage in range(2))
    assert split - alone == table


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("layers", [(4,), (2, 2)])
def test_what_of_the_weights_is_in_a_devices_memory(layers: tuple[int, ...], is_tied: bool) -> None:
    """On GPUs all but the embedding that no LM head beside it shares; of other stages all."""
    config = msgspec.structs.replace(fake_model_config(4), tie_word_embeddings=is_tied)

    def on_host(stage: int, device: str) -> int:
        everywhere = weight_bytes(config, ModelCut(layers), stage, "bfloat16")
        return everywhere - device_weight_bytes(config, ModelCut(layers), stage, "bfloat16", device)

    table = 2 * config.embedding_parameters
    assert on_host(0, "cuda") == (0 if is_tied and layers == (4,) else table)
    assert sum(on_host(stage, "cuda") for stage in range(1, len(layers))) == 0
    assert on_host(0, "cpu") == 0


def test_each_stage_knows_its_part(tmp_path: Path) -> None:
    settings = make_settings(3, folder=tmp_path, model_config=fake_model_config(7))
    geometry = build_geometry(settings)
    configs = build_stage_configs(settings, geometry, num_cores=8)
    assert [config.stage for config in configs] == [0, 1, 2]
    assert [config.first_layer for config in configs] == [
        0,
        geometry.layers_of_stage[0],
        sum(geometry.layers_of_stage[:2]),
    ]
    assert {config.num_threads for config in configs} == {2}
    assert [config.device for config in configs] == ["cpu"] * 3
    assert configs[1].nvme_path == str(tmp_path / "stage-1.kv")
    assert msgspec.msgpack.decode(configs[2].geometry, type=KVGeometry) == geometry
    decoded = msgspec.msgpack.decode(configs[2].model_config, type=ModelConfig)
    assert decoded == settings.model_config


def test_gpu_stages_have_a_gpu_each() -> None:
    settings = on_gpu(memory_limit_bytes=24 * GIB)
    configs = build_stage_configs(settings, build_geometry(settings, [80 * GIB] * 4))
    assert [config.device for config in configs] == [f"cuda:{stage}" for stage in range(4)]
    assert {config.memory_limit_bytes for config in configs} == {24 * GIB}
    assert all(config.uses_nccl for config in configs)


def test_neighbours_share_a_gpu_where_that_is_asked_for() -> None:
    settings = on_gpu(stages_per_gpu=2, uses_nccl=False)
    geometry = build_geometry(settings, [80 * GIB] * 2)
    assert geometry == build_geometry(on_gpu(), [40 * GIB] * 4)
    configs = build_stage_configs(settings, geometry)
    assert [config.device for config in configs] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert not any(config.uses_nccl for config in configs)
    with pytest.raises(StageDiedError, match="2 are visible"):
        build_geometry(settings, [80 * GIB])


def test_more_stages_than_cores_have_one_thread_each() -> None:
    settings = make_settings(4)
    configs = build_stage_configs(settings, build_geometry(settings), num_cores=2)
    assert {config.num_threads for config in configs} == {1}


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", None), ("50000 100000", 1), ("x", None)]
)
def test_a_containers_cpu_limit_counts(tmp_path: Path, limit: str, cores: int | None) -> None:
    cpu_max = tmp_path / "cpu.max"
    cpu_max.write_text(limit)
    unlimited = available_cores(tmp_path / "missing")
    assert available_cores(cpu_max) == (cores or unlimited)
