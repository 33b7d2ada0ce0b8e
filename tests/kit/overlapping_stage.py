"""A stage process that runs its steps as on a GPU, by an emulator of the kernels: its loop launches
messages ahead. Named by import string as what a stage process runs."""

from __future__ import annotations

from pathlib import Path

import torch
from kit.flashinfer_emulator import emulated_flashinfer
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage import main as stage_main
from pipemax_worker.stage.model.cuda.steps import CudaSteps
from pipemax_worker.stage.model.model import StageModel

ENTRY_POINT = "kit.overlapping_stage:main"


def main(config_bytes: bytes) -> None:
    stage_main.main(config_bytes, load_model)


def load_model(
    config: StageConfig, model_config: ModelConfig, geometry: KVGeometry, device: torch.device
) -> StageModel:
    model = stage_main.load_model(config, model_config, geometry, device)
    assert isinstance(model, StageModel)
    assert Path(config.model_folder).is_dir()
    model._cuda = CudaSteps(
        model_config, emulated_flashinfer(), model._rope, device, torch.float32,
        is_first=config.stage == 0, is_last=config.stage == config.num_stages - 1,
        max_sampled=config.max_num_requests, uses_graphs=False,
    )  # fmt: skip
    return model
