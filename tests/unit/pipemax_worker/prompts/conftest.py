"""Tokenizers, a model's shape and a processor, made once a session."""

from pathlib import Path

import pytest
from kit.tokenizer import build_tokenizer_folder
from pipemax_worker.contract.model_config import ModelConfig, parse_model_config
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.prompts.settings import PromptSettings
from pipemax_worker.prompts.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(build_tokenizer_folder(tmp_path_factory.mktemp("byte_level")))


@pytest.fixture(scope="session")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("metaspace")
    return load_tokenizer(build_tokenizer_folder(folder, "metaspace"))


@pytest.fixture(params=["byte_level", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    fixture: Tokenizer = request.getfixturevalue(request.param)
    return fixture


@pytest.fixture(scope="session")
def model_config() -> ModelConfig:
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "eos_token_id": [0, 7],
    }
    return parse_model_config(raw, "test")


@pytest.fixture(scope="session")
def processor(byte_level: Tokenizer, model_config: ModelConfig) -> PromptProcessor:
    settings = PromptSettings(model_name="tiny", max_model_tokens=100, aliases=("gpt-4", "tiny-2"))
    return PromptProcessor(byte_level, model_config, settings)
