"""A benchmark's settings are those of a job, save for what its options change."""

from pathlib import Path

import pytest
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.pipeline.settings import build_geometry
from pipemax_worker.runner.bench_settings import (
    BenchOptions,
    build_settings,
    quarter_blocks,
    with_device_blocks,
    with_roomy_tiers,
)
from pipemax_worker.runner.bench_work import BenchWork
from pipemax_worker.runner.sizing import CPU_MAX_BATCHED_TOKENS, CPU_ROWS_PER_STEP, SessionSettings

TINY = Path(__file__).parents[4] / "models" / "tiny"
WORK = BenchWork(((1,) * 30, (2,) * 60), (10, 20))


@pytest.fixture(name="config")
def fixture_config() -> ModelConfig:
    return load_model_config(TINY)


@pytest.fixture(autouse=True)
def fixture_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipemax_worker.runner.bench_settings.count_gpus", lambda: 0)


def test_without_options_a_job_s_defaults_hold(config: ModelConfig) -> None:
    settings = build_settings(BenchOptions(TINY), config, 2)
    assert settings.num_micro_batches == 2
    assert settings.pipeline.num_stages == 2
    assert settings.pipeline.max_batched_tokens == CPU_MAX_BATCHED_TOKENS
    assert settings.max_num_running == 2 * CPU_ROWS_PER_STEP
    assert settings.pipeline.dtype == "float32"
    assert settings.prefix_sharing


def test_layers_are_of_as_many_stages_as_they_name(config: ModelConfig) -> None:
    num_layers = config.num_hidden_layers
    options = BenchOptions(TINY, layers_per_stage=(1, num_layers - 2, 1))
    assert build_settings(options, config, 3).pipeline.layers_of_stage == (1, num_layers - 2, 1)
    assert build_settings(options, config, 2).pipeline.layers_of_stage is None


def test_options_reach_the_pipeline(config: ModelConfig) -> None:
    options = BenchOptions(
        TINY,
        micro_batches=3,
        max_batched_tokens=40,
        max_num_requests=20,
        device_kv_bytes=1 << 20,
        host_kv_bytes=1 << 21,
        run_ahead=True,
        block_tokens=32,
        kv_dtype="bfloat16",
        memory_fraction=0.5,
        memory_limit_bytes=1 << 33,
        dummy_weights_seed=3,
    )
    settings = build_settings(options, config, 1)
    assert (settings.pipeline.block_tokens, settings.pipeline.kv_dtype) == (32, "bfloat16")
    assert settings.pipeline.memory_fraction == 0.5
    assert settings.pipeline.memory_limit_bytes == 1 << 33
    assert settings.pipeline.dummy_weights_seed == 3
    assert settings.num_micro_batches == 3
    assert settings.pipeline.max_batched_tokens == 40
    assert settings.max_num_running == 20
    assert settings.pipeline.device_kv_bytes == 1 << 20
    assert settings.pipeline.host_kv_bytes == 1 << 21
    assert settings.run_ahead
    assert not build_settings(BenchOptions(TINY, run_ahead=False), config, 1).run_ahead


def test_a_number_of_micro_batches_given_here_wins(config: ModelConfig) -> None:
    assert build_settings(BenchOptions(TINY), config, 1, 8).num_micro_batches == 8


@pytest.mark.parametrize("num_stages", [1, 3])
def test_tiers_hold_exactly_the_blocks_asked_for(config: ModelConfig, num_stages: int) -> None:
    settings = build_settings(BenchOptions(TINY), config, num_stages)
    geometry = build_geometry(with_device_blocks(settings, 5, 9).pipeline)
    assert geometry.num_device_slots == 5
    assert geometry.num_host_slots == 9


def test_a_roomy_device_tier_holds_all_requests(config: ModelConfig) -> None:
    settings = build_settings(BenchOptions(TINY), config, 1)
    geometry = build_geometry(with_roomy_tiers(settings, WORK).pipeline)
    block_tokens = settings.pipeline.block_tokens
    assert geometry.num_device_slots >= WORK.num_blocks(block_tokens)
    assert geometry.num_host_slots == geometry.num_device_slots


def test_a_quarter_is_rounded_up_and_holds_the_longest_request_twice(
    config: ModelConfig,
) -> None:
    settings: SessionSettings = build_settings(BenchOptions(TINY), config, 1)
    assert quarter_blocks(401, settings, WORK) == 101
    assert quarter_blocks(8, settings, WORK) == 2 * WORK.longest_blocks(16) == 10
