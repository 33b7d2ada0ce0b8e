"""Stages that launch messages ahead, in real processes, with KV that rotates: same texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from kit.models import save_model
from kit.overlapping_stage import ENTRY_POINT
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.pipeline.executor import PipelineExecutor
from pipemax_worker.runner import session
from pipemax_worker.runner.bench_engine import EngineRun, run_engine
from pipemax_worker.runner.bench_settings import BenchOptions, build_settings, with_device_blocks
from pipemax_worker.runner.bench_work import BenchWork

WORK = BenchWork(
    tuple(tuple(range(3, 3 + length)) for length in (21, 5, 13, 1, 30, 8, 2, 17)),
    (6, 9, 12, 15, 7, 10, 14, 8),
)
WARM_UP = BenchWork(((4, 5),), (1,))


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


def run(folder: Path, config: ModelConfig, num_stages: int, device_blocks: int) -> EngineRun:
    options = BenchOptions(folder, block_tokens=4, max_batched_tokens=40, run_ahead=True)
    settings = build_settings(options, config, num_stages, 3)
    return run_engine(with_device_blocks(settings, device_blocks, 120), WORK, WARM_UP)


@pytest.mark.parametrize("num_stages", [1, 2])
def test_same_texts_as_stages_that_wait(
    num_stages: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_model_config(folder)
    plain = run(folder, config, num_stages, 120)
    executor = partial(PipelineExecutor, entry_point=ENTRY_POINT)
    monkeypatch.setattr(session, "PipelineExecutor", executor)
    assert run(folder, config, num_stages, 120).token_ids == plain.token_ids
    tight = run(folder, config, num_stages, 24)
    assert tight.token_ids == plain.token_ids
    assert sum(copy.num_bytes for copy in tight.copies) > 0
