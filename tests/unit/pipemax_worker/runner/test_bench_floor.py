"""What a step cannot be faster than."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.errors import StageDiedError
from pipemax_worker.pipeline.settings import PipelineSettings, build_geometry
from pipemax_worker.runner.bench_floor import (
    CopySpeeds,
    StepFloor,
    build_floor,
    gpu_memory_used_bytes,
    measure_copies,
)

SHAPES = Path(__file__).parents[4] / "tools" / "shapes"
TINY = Path(__file__).parents[4] / "models" / "tiny"
SPEEDS = CopySpeeds("a GPU", 4e12)


def floor_of(folder: Path, num_stages: int) -> StepFloor:
    settings = PipelineSettings(
        model_folder=folder,
        model_config=load_model_config(folder),
        num_stages=num_stages,
        dtype="bfloat16",
        kv_dtype="bfloat16",
        block_tokens=16,
        max_batched_tokens=64,
        max_num_requests=8,
        host_kv_bytes=0,
    )
    return build_floor(settings, build_geometry(settings), SPEEDS)


def test_the_embedding_is_not_read() -> None:
    """Qwen2.5-7B: 7.62 billion parameters, of which 0.54 are looked up."""
    floor = floor_of(SHAPES / "Qwen2.5-7B", 1)
    assert floor.weight_bytes == (pytest.approx(2 * 7.07e9, rel=1e-3),)
    assert floor.kv_bytes_per_token == (28 * 2 * 4 * 128 * 2,)
    assert floor.seconds(100_000) == pytest.approx((14.14e9 + 5.73e9) / 4e12, rel=1e-3)


def test_a_tied_table_is_the_head_of_a_single_stage() -> None:
    one, two = floor_of(TINY, 1), floor_of(TINY, 2)
    table = 2 * 620 * 128
    assert one.weight_bytes[0] == sum(two.weight_bytes)
    assert two.weight_bytes[1] > table


def test_of_experts_those_are_read_that_some_token_goes_to() -> None:
    """Mixtral-8x7B: 46.6 billion parameters but for the embedding; two experts of eight a token."""
    floor = floor_of(SHAPES / "Mixtral-8x7B", 1)
    experts = 2 * 32 * 8 * 3 * 4096 * 14336
    everything = floor.seconds(0, 10_000)
    assert everything == pytest.approx(2 * 46.57e9 / 4e12, rel=1e-3)
    assert floor.seconds(0, 1) == pytest.approx(everything - 0.75 * experts / 4e12)
    assert floor.seconds(0, 4) == pytest.approx(everything - 0.75**4 * experts / 4e12)
    steps = [StepRecord(0, num_tokens, 0, 1.0) for num_tokens in (1, 4, 300)]
    assert floor.median_seconds(steps) == floor.seconds(0, 4)


def test_each_stage_has_its_own_experts() -> None:
    floor = floor_of(SHAPES / "Qwen3-235B-A22B", 4)
    assert sum(e.num_parameters for e in floor.experts if e is not None) == (
        94 * 128 * 3 * 4096 * 1536
    )


def test_the_slowest_stage_decides() -> None:
    floor = StepFloor(10.0, (100, 300), (3, 1))
    assert floor.seconds(0) == 30.0
    assert floor.seconds(200) == 70.0
    steps = [StepRecord(0, 1, 0, 1.0, num_kv_tokens=n) for n in (0, 10, 200)]
    assert floor.median_seconds(steps) == 31.0
    assert floor.median_seconds([]) == 0.0


def test_copies_are_measured_by_another_program() -> None:
    answer = 'print(\'{"name": "x", "device": 5.0, "host_to_device": 1.5}\')'
    assert measure_copies("cpu", [sys.executable, "-c", answer]) == CopySpeeds("x", 5.0, 1.5)


def test_a_measurement_that_fails_says_why() -> None:
    with pytest.raises(StageDiedError, match="measuring copies on cuda:0 failed:\nno driver"):
        measure_copies("cuda:0", [sys.executable, "-c", "raise SystemExit('no driver')"])


def test_memory_used_of_the_gpus_that_cuda_may_use() -> None:
    """``nvidia-smi`` lists all, in an order of its own."""
    said = "GPU-a, 81559, 7\nGPU-b, 24564, 24509\nGPU-c, 81559, [N/A]\n"
    assert gpu_memory_used_bytes(("GPU-b", "GPU-a"), lambda _: said) == (24509 << 20, 7 << 20)
    assert gpu_memory_used_bytes(("GPU-c", "GPU-d"), lambda _: said) == (0, 0)
    assert gpu_memory_used_bytes(("GPU-a",), lambda _: None) == ()
