"""Tensors of a Hugging Face folder, read one at a time.

Opening a checkpoint reads the index, or the header of the single file; after that only the bytes of
the tensors asked for are read. So a stage starts although the shards of other stages' layers are
not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from pipemax_worker.errors import ModelNotFoundError, UnsupportedModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class WeightSource(Protocol):
    """Where a stage's weights come from: each tensor on the stage's device, in its dtype."""

    def has(self, name: str) -> bool:
        """Whether there is such a tensor; asked where models are spelled in several ways."""
        ...

    def read(self, name: str, *shape: int) -> torch.Tensor:
        """One tensor, in memory of its own."""
        ...

    def read_stacked(self, rows: Mapping[str, int], *columns: int) -> torch.Tensor:
        """Several tensors, one below the other; ``rows``: ``{name: number of rows}``."""
        ...


class Checkpoint:
    """The weights of one model folder, delivered on a device in a dtype.

    Shards stay open (mapped) as long as the checkpoint lives. All methods raise ModelNotFoundError
    for a missing tensor and a missing or damaged shard, UnsupportedModelError for a tensor whose
    shape is not the one that ``config.json`` implies.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._folder = folder
        self._device = device
        self._dtype = dtype
        self._shards: dict[str, Any] = {}
        self._file_of_tensor = self._read_index()

    def has(self, name: str) -> bool:
        """Whether the index, or the single file, names it."""
        return name in self._file_of_tensor

    def read(self, name: str, *shape: int) -> torch.Tensor:
        """One tensor, in memory of its own."""
        target = torch.empty(shape, dtype=self._dtype, device=self._device)
        return target.copy_(self._mapped(name, shape))

    def read_stacked(self, rows: Mapping[str, int], *columns: int) -> torch.Tensor:
        """Several tensors, one below the other: ``{name: number of rows}`` -> [all rows, *columns].

        Each is converted and copied by itself: the peak is the result and one tensor.
        """
        shape = (sum(rows.values()), *columns)
        target = torch.empty(shape, dtype=self._dtype, device=self._device)
        parts = torch.split_with_sizes(target, list(rows.values()))
        for (name, num_rows), part in zip(rows.items(), parts, strict=True):
            part.copy_(self._mapped(name, (num_rows, *columns)))
        return target

    def _read_index(self) -> dict[str, str]:
        index_path = self._folder / INDEX_FILE
        try:
            weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
            return {str(name): str(file) for name, file in weight_map.items()}
        except FileNotFoundError:
            return dict.fromkeys(self._shard(SINGLE_FILE).keys(), SINGLE_FILE)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelNotFoundError(
                f"{index_path}: not a safetensors index ({error!r}); download the model again"
            ) from error

    def _shard(self, file: str) -> Any:
        if file not in self._shards:
            path = self._folder / file
            try:
                self._shards[file] = safe_open(path, framework="pt", device="cpu")
            except FileNotFoundError:
                raise ModelNotFoundError(
                    f"{path}: not found; the model folder holds its weights as {SINGLE_FILE}, or "
                    f"as the shards named in {INDEX_FILE}"
                ) from None
            except (OSError, SafetensorError) as error:
                raise ModelNotFoundError(
                    f"{path}: cannot be read as safetensors ({error}); download the shard again"
                ) from error
        return self._shards[file]

    def _mapped(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor as it lies in the file; its bytes are read when it is copied."""
        if name not in self._file_of_tensor:
            raise ModelNotFoundError(
                f"{self._folder}: tensor {name} is missing from the weights; is the folder "
                "complete, and does config.json belong to it?"
            )
        file = self._file_of_tensor[name]
        try:
            tensor = self._shard(file).get_tensor(name)
        except SafetensorError as error:
            raise ModelNotFoundError(
                f"{self._folder / file}: tensor {name} is missing or damaged ({error})"
            ) from error
        assert isinstance(tensor, torch.Tensor)
        if tuple(tensor.shape) != shape:
            raise UnsupportedModelError(
                f"{self._folder / file}: tensor {name} has shape {list(tensor.shape)}, "
                f"config.json implies {list(shape)}"
            )
        return tensor
