"""What identifies a model folder, whatever its path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipemax_worker.dataset.model_identity import describe_model
from pipemax_worker.errors import ModelNotFoundError


def _make_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model-2.safetensors").write_bytes(b"12345")
    (folder / "model-1.safetensors").write_bytes(b"123")
    (folder / "README.md").write_text("hello")
    return folder


def test_the_same_model_elsewhere_is_the_same(tmp_path: Path) -> None:
    one = describe_model(_make_model(tmp_path / "one"))
    assert one == describe_model(_make_model(tmp_path / "other"))
    assert one["weights"] == {"model-1.safetensors": 3, "model-2.safetensors": 5}
    assert set(one["files"]) == {"config.json", "tokenizer.json"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"hidden_size": 9}'),
        ("model-1.safetensors", "1234"),
        ("model-3.safetensors", ""),
        ("chat_template.jinja", "{{ messages }}"),
    ],
)
def test_what_changes_the_text_changes_the_identity(
    tmp_path: Path, name: str, content: str
) -> None:
    folder = _make_model(tmp_path / "model")
    before = describe_model(folder)
    (folder / name).write_text(content)
    assert describe_model(folder) != before


def test_weights_that_no_stage_reads_do_not_count(tmp_path: Path) -> None:
    """A whole clone, and what was fetched of it, are the same model."""
    folder = _make_model(tmp_path / "model")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = describe_model(folder)
    assert set(before["weights"]) == {"model-1.safetensors", "model-2.safetensors"}
    (folder / "consolidated.safetensors").write_bytes(b"the same again")
    (folder / "model.safetensors").write_bytes(b"and again")
    assert describe_model(folder) == before


def test_a_model_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _make_model(tmp_path / "model")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelNotFoundError, match="Permission denied"):
        describe_model(folder)
