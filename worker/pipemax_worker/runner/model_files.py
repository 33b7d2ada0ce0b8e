"""Are a model's weights complete? Asked before a process is started or a ledger written."""

from __future__ import annotations

import json
from pathlib import Path

from pipemax_worker.errors import ModelNotFoundError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_FILES_NAMED = 3


def check_weight_files(folder: Path) -> None:
    """Raises ModelNotFoundError naming the weight files that are missing.

    Only their presence is checked: a stage reads them, and each only its own layers.
    """
    missing = [name for name in _weight_files(folder) if not (folder / name).is_file()]
    if missing:
        more = len(missing) - _MAX_FILES_NAMED
        named = ", ".join(missing[:_MAX_FILES_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise ModelNotFoundError(
            f"{folder}: {named}: not found; a model folder holds its weights as {WEIGHTS_FILE}, or "
            f"as the shards named in {INDEX_FILE}: complete the folder"
        )


def _weight_files(folder: Path) -> list[str]:
    path = folder / INDEX_FILE
    if not path.is_file():
        return [WEIGHTS_FILE]
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(
            f"{path}: not a safetensors index ({error!r}); download the model again"
        ) from error
