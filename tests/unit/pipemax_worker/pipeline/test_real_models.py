"""Models that transformers wrote, cut into stages of real processes: the oracle's tokens."""

import random
from pathlib import Path

import pytest
from kit.devices import devices
from kit.models import VOCAB_SIZE, save_model
from kit.oracle import ask_oracle, compare
from kit.pipeline_driver import (
    make_configs,
    make_settings,
    run_messages,
    sampled_tokens,
    static_messages,
)
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.pipeline.executor import PipelineExecutor

NUM_TOKENS = 16


@pytest.mark.parametrize("device", devices(num_gpus=4))
@pytest.mark.parametrize(
    ("name", "num_stages", "cut"),
    [
        ("llama", 1, None),
        ("qwen2", 2, None),
        ("mistral", 4, None),
        ("qwen3", 3, ModelCut((1, 2, 1), (True, True, False))),
        ("mixtral", 2, ModelCut((3, 1))),
        ("qwen3-moe", 4, None),
    ],
)
def test_greedy_tokens_are_the_oracles(
    tmp_path: Path, name: str, num_stages: int, cut: ModelCut | None, device: str
) -> None:
    folder = save_model(tmp_path, name)
    generator = random.Random(num_stages)
    prompts = [
        [generator.randrange(3, VOCAB_SIZE) for _ in range(generator.randint(1, 20))]
        for _ in range(6)
    ]
    settings = make_settings(
        num_stages,
        model_folder=folder,
        model_config=load_model_config(folder),
        device=device,
        cut=cut,
    )
    executor = PipelineExecutor(make_configs(settings))
    try:
        ready = executor.start()
        texts = sampled_tokens(run_messages(executor, static_messages(prompts, NUM_TOKENS, 3)))
    finally:
        executor.drain()
    assert all(stage.weight_bytes > 0 for stage in ready)
    answers = ask_oracle(folder, prompts, [NUM_TOKENS] * len(prompts))
    total = sum(
        (compare(answers[i], texts[i]) for i in range(1, len(prompts))),
        compare(answers[0], texts[0]),
    )
    assert total.is_exact
    assert total.share_compared > 0.95
