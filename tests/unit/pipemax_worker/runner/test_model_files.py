"""Weight files are looked for before anything is started."""

import json
from pathlib import Path
from typing import Any

import pytest
from pipemax_worker.dataset.model_weights import INDEX_FILE, WEIGHTS_FILE
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.runner.model_files import check_weight_files


def write_index(folder: Path, files: list[str]) -> None:
    index = {"weight_map": {f"tensor{number}": file for number, file in enumerate(files)}}
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_a_single_file_is_enough(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).touch()
    check_weight_files(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=WEIGHTS_FILE):
        check_weight_files(tmp_path)


def test_all_shards_are_there(tmp_path: Path) -> None:
    write_index(tmp_path, ["a.safetensors", "b.safetensors", "a.safetensors"])
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "b.safetensors").touch()
    check_weight_files(tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write_index(tmp_path, [f"shard-{number}.safetensors" for number in range(1, 7)])
    (tmp_path / "shard-2.safetensors").touch()
    with pytest.raises(ModelNotFoundError) as caught:
        check_weight_files(tmp_path)
    expected = "shard-1.safetensors, shard-3.safetensors, shard-4.safetensors and 2 more: not found"
    assert expected in str(caught.value)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": None}, {"weight_map": ["a"]}, "{"])
def test_a_broken_index(tmp_path: Path, index: Any) -> None:
    text = index if isinstance(index, str) else json.dumps(index)
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(ModelNotFoundError, match="not a safetensors index"):
        check_weight_files(tmp_path)
