"""From a job's spec, and what it leaves open, to sizes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from kit.jobs import JobFolder
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.errors import JobFileError
from pipemax_worker.job.load import load_job
from pipemax_worker.runner.sizing import (
    CPU_MAX_BATCHED_TOKENS,
    CPU_ROWS_PER_STEP,
    CUDA_MAX_BATCHED_TOKENS,
    CUDA_ROWS_PER_STEP,
    SessionSettings,
    choose_device,
    choose_dtype,
    derive_session_settings,
)


@pytest.fixture
def config(job: JobFolder) -> ModelConfig:
    return load_model_config(job.model_folder)


def settings_of(
    job: JobFolder,
    changes: dict[str, Any],
    num_gpus: int = 0,
    nvme_folder: Path | None = None,
) -> SessionSettings:
    spec = load_job(job.write({"engine": {}, **changes})).spec
    config = load_model_config(job.model_folder)
    return derive_session_settings(spec, config, job.model_folder, nvme_folder, num_gpus)


@pytest.mark.parametrize(
    ("wanted", "num_gpus", "chosen"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 8, "cpu"), ("cuda", 1, "cuda")],
)
def test_device(wanted: str, num_gpus: int, chosen: str) -> None:
    assert choose_device(wanted, num_gpus) == chosen


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(JobFileError, match=r"spec\.engine\.device: found 'cuda'"):
        choose_device("cuda", 0)


@pytest.mark.parametrize(
    ("wanted", "checkpoint", "device", "chosen"),
    [
        ("auto", "bfloat16", "cpu", "float32"),
        ("auto", "bfloat16", "cuda", "bfloat16"),
        ("auto", "float16", "cuda", "float16"),
        ("auto", "float32", "cuda", "bfloat16"),
        ("float32", "bfloat16", "cuda", "float32"),
        ("float16", "bfloat16", "cpu", "float16"),
    ],
)
def test_dtype(config: ModelConfig, wanted: str, checkpoint: str, device: str, chosen: str) -> None:
    of_checkpoint = msgspec.structs.replace(config, torch_dtype=checkpoint)
    assert choose_dtype(wanted, of_checkpoint, device) == chosen


def test_defaults_on_a_cpu(job: JobFolder) -> None:
    settings = settings_of(job, {})
    pipeline = settings.pipeline
    assert (pipeline.device, pipeline.num_stages, settings.num_micro_batches) == ("cpu", 1, 1)
    assert (pipeline.dtype, pipeline.kv_dtype) == ("float32", "float32")
    assert pipeline.max_batched_tokens == CPU_MAX_BATCHED_TOKENS
    assert pipeline.max_num_requests == settings.max_num_running == CPU_ROWS_PER_STEP
    assert pipeline.device_kv_bytes is None
    assert not settings.run_ahead


def test_defaults_on_gpus(job: JobFolder) -> None:
    settings = settings_of(job, {}, num_gpus=4)
    pipeline = settings.pipeline
    assert (pipeline.device, pipeline.num_stages, settings.num_micro_batches) == ("cuda", 4, 4)
    assert pipeline.max_batched_tokens == CUDA_MAX_BATCHED_TOKENS
    assert pipeline.max_num_requests == CUDA_ROWS_PER_STEP
    assert settings.max_num_running == 4 * CUDA_ROWS_PER_STEP
    assert settings.run_ahead


def test_the_jobs_own_split_of_layers(job: JobFolder, config: ModelConfig) -> None:
    num_layers = config.num_hidden_layers
    split = [1, num_layers - 2, 1]
    pipeline = settings_of(job, {"parallelism.layersPerStage": split}).pipeline
    assert (pipeline.num_stages, pipeline.layers_of_stage) == (3, tuple(split))
    with pytest.raises(
        JobFileError,
        match=rf"layersPerStage: found {num_layers + 1} layers in all, expected {num_layers}",
    ):
        settings_of(job, {"parallelism.layersPerStage": [1, num_layers]})


def test_what_the_job_says_is_taken(job: JobFolder, tmp_path: Path) -> None:
    engine = {
        "blockTokens": 4,
        "kvDtype": "bfloat16",
        "microBatches": 3,
        "deviceKvCache": "2Mi",
        "memoryFraction": 0.5,
        "maxBatchedTokens": 96,
        "maxNumRequests": 30,
        "prefixSharing": False,
    }
    kv_cache = {"host": "3Mi", "nvme": {"emptyDir": {}, "size": "4Mi"}}
    changes = {"engine": engine, "kvCache": kv_cache, "parallelism.stagesPerNode": 2}
    settings = settings_of(job, changes, nvme_folder=tmp_path)
    pipeline = settings.pipeline
    assert (pipeline.num_stages, settings.num_micro_batches) == (2, 3)
    assert (pipeline.block_tokens, pipeline.kv_dtype) == (4, "bfloat16")
    assert pipeline.device_kv_bytes == 2 << 20
    assert (pipeline.host_kv_bytes, pipeline.nvme_kv_bytes) == (3 << 20, 4 << 20)
    assert (pipeline.nvme_folder, pipeline.memory_fraction) == (tmp_path, 0.5)
    assert (pipeline.max_batched_tokens, settings.max_num_running) == (96, 30)
    assert (settings.policy, settings.prefix_sharing) == ("fused", False)


@pytest.mark.parametrize(
    ("engine", "rows"),
    [
        ({"maxNumRequests": 5}, 5),
        ({"maxNumRequests": 1000}, 500),  # all of them, should there be but one micro-batch's turn
        ({"maxNumRequests": 100}, CPU_ROWS_PER_STEP),
        ({"maxBatchedTokens": 16}, 16),  # each row has a token
    ],
)
def test_rows_of_a_message(job: JobFolder, engine: dict[str, int], rows: int) -> None:
    changes = {"engine": {"microBatches": 2, "maxBatchedTokens": 512} | engine}
    assert settings_of(job, changes).pipeline.max_num_requests == rows


def test_without_an_nvme_section_there_is_no_nvme(job: JobFolder) -> None:
    pipeline = settings_of(job, {}).pipeline
    assert (pipeline.nvme_kv_bytes, pipeline.nvme_folder) == (0, None)
