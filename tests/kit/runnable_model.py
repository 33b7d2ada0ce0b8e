"""A tiny model with random weights and a tokenizer: a folder that `pipemax run` takes."""

from __future__ import annotations

from pathlib import Path

from kit.jobs import MODEL_CONFIG
from kit.models import save_model
from kit.tokenizer import build_tokenizer_folder

_SIZES = {name: value for name, value in MODEL_CONFIG.items() if name != "architectures"}


def write_model(folder: Path, max_shard_size: str = "5GB") -> Path:
    """The model of ``kit.jobs``; it has no end-of-sequence id but the tokenizer's."""
    save_model(folder, "llama", max_shard_size, **_SIZES)
    return build_tokenizer_folder(folder)
