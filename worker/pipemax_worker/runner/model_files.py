"""Are a model's weights complete? Asked before a process is started or a ledger written."""

from __future__ import annotations

from pathlib import Path

from pipemax_worker.dataset.model_weights import INDEX_FILE, WEIGHTS_FILE, weight_files
from pipemax_worker.errors import ModelNotFoundError

_MAX_FILES_NAMED = 3


def check_weight_files(folder: Path) -> None:
    """Raises ModelNotFoundError naming the weight files that are missing.

    Only their presence is checked: a stage reads them, and each only its own layers.
    """
    missing = [name for name in weight_files(folder) if not (folder / name).is_file()]
    if missing:
        more = len(missing) - _MAX_FILES_NAMED
        named = ", ".join(missing[:_MAX_FILES_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise ModelNotFoundError(
            f"{folder}: {named}: not found; a model folder holds its weights as {WEIGHTS_FILE}, or "
            f"as the shards named in {INDEX_FILE}: complete the folder"
        )
