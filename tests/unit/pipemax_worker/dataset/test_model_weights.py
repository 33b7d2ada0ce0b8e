"""The files that hold a model's weights, by name."""

import json
from pathlib import Path

import pytest
from pipemax_worker.dataset.model_weights import INDEX_FILE, parse_weight_index, weight_files
from pipemax_worker.errors import ModelNotFoundError


def index_of(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"t{n}": shard for n, shard in enumerate(shards)}}).encode()


def test_one_file_or_the_shards_of_the_index(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == ["model.safetensors"]
    (tmp_path / INDEX_FILE).write_bytes(index_of("b", "a", "b"))
    assert weight_files(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"{", "not a safetensors index"),
        (b"[]", "not a safetensors index"),
        (b'{"weight_map": [1]}', "not a safetensors index"),
        (b"\xff\xfe\x00", "not a safetensors index"),
        (index_of("/etc/passwd"), "'/etc/passwd' leads out of the model's folder"),
        (index_of("a/../../b"), "leads out of the model's folder"),
    ],
)
def test_what_is_no_index_is_named(data: bytes, named: str) -> None:
    with pytest.raises(ModelNotFoundError, match=named):
        parse_weight_index(data, f"hub: {INDEX_FILE}")


def test_an_index_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / INDEX_FILE).touch()

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelNotFoundError, match="Permission denied"):
        weight_files(tmp_path)
