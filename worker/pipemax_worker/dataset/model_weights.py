"""Which files of a model folder hold its weights: one file, or the shards that an index names."""

from __future__ import annotations

import json
from pathlib import Path

from pipemax_worker.errors import ModelNotFoundError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[str]:
    """Their names, sorted, whether they are there or not.

    Raises ModelNotFoundError for an index that cannot be read.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        return [WEIGHTS_FILE]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(f"{path}: cannot be read: {error}") from error
    return parse_weight_index(data, str(path))


def parse_weight_index(data: bytes, place: str) -> list[str]:
    """The shards that an index names, sorted. ``place`` is for the message.

    Raises ModelNotFoundError for what is no index, or one that leads out of its folder.
    """
    try:
        names = sorted({str(name) for name in json.loads(data)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(
            f"{place}: not a safetensors index ({error!r}); download the model again"
        ) from error
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise ModelNotFoundError(f"{place}: {name!r} leads out of the model's folder")
    return names
