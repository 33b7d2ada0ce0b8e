"""What of a model folder goes into the fingerprint: contents of the small files, sizes of weights.

Weights are not hashed: reading 140 GB to start a job costs more than it protects from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipemax_worker.dataset.model_weights import weight_files
from pipemax_worker.errors import ModelNotFoundError

_HASHED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def describe_model(folder: Path) -> dict[str, Any]:
    """Plain JSON: ``files`` (name to SHA-256) and ``weights`` (name to size in bytes).

    The folder's own path is left out: the same model at another place is the same model, and files
    that no stage reads do not tell a whole folder from one that was fetched.
    Raises ModelNotFoundError if the folder cannot be read.
    """
    try:
        files = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in _HASHED_FILES
            if (folder / name).is_file()
        }
        weights = {path.name: path.stat().st_size for path in _weights(folder)}
    except OSError as error:
        raise ModelNotFoundError(f"{folder}: the model cannot be read: {error}") from error
    return {"files": files, "weights": weights}


def _weights(folder: Path) -> list[Path]:
    """Those that the stages read; in a folder that lacks them, whatever weights there are."""
    paths = [folder / name for name in weight_files(folder)]
    found = [path for path in paths if path.is_file()]
    return found or sorted(folder.glob("*.safetensors"))
