"""Of a repository full of formats, only what a run reads is fetched."""

from __future__ import annotations

import json

import pytest
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.model_store.models import Listing, RemoteFile
from pipemax_worker.model_store.needed_files import find_weight_index, select_files

INDEX = "model.safetensors.index.json"
BASE = ("config.json", "tokenizer.json", "tokenizer_config.json")
CLUTTER = (
    "README.md",
    "pytorch_model.bin",
    "model.gguf",
    "consolidated.safetensors",
    "optimizer.pt",
    "vocab.json",
)


def listing(*names: str, version: str | None = "commit") -> Listing:
    return Listing(tuple(RemoteFile(name, len(name), f"e-{name}") for name in names), version)


def index_of(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"t{n}": shard for n, shard in enumerate(shards)}}).encode()


def test_no_duplicates_in_other_formats() -> None:
    found = listing(*BASE, *CLUTTER, "chat_template.jinja", "model.safetensors")
    needed = select_files(found, None, "hub")
    assert [file.name for file in needed.small] == [*BASE, "chat_template.jinja"]
    assert [file.name for file in needed.weights] == ["model.safetensors"]
    assert needed.version == "commit"
    assert needed.total_bytes == sum(len(file.name) for file in needed.all)


def test_shards_are_those_that_the_index_names() -> None:
    found = listing(*BASE, INDEX, "a.safetensors", "b.safetensors", "adapter.safetensors")
    assert find_weight_index(found) == RemoteFile(INDEX, len(INDEX), f"e-{INDEX}")
    needed = select_files(found, index_of("b.safetensors", "a.safetensors"), "hub")
    assert [file.name for file in needed.weights] == ["a.safetensors", "b.safetensors"]
    assert INDEX in [file.name for file in needed.small]


@pytest.mark.parametrize(
    ("names", "index", "named"),
    [
        ((), None, "no files there"),
        (("config.json", "model.safetensors"), None, "tokenizer.json, tokenizer_config.json: not"),
        ((*BASE, "pytorch_model.bin"), None, r"model\.safetensors: not found"),
        ((*BASE, INDEX), index_of("a", "b", "c", "d", "e"), "a, b, c and 2 more: not found"),
        ((*BASE, INDEX), b"{}", "not a safetensors index"),
        ((*BASE, INDEX), index_of("../../etc/passwd"), "leads out of the model's folder"),
    ],
)
def test_what_is_missing_is_named(names: tuple[str, ...], index: bytes | None, named: str) -> None:
    with pytest.raises(ModelNotFoundError, match=named):
        select_files(listing(*names), index, "s3://bucket/model")


def test_without_commits_the_version_is_the_files() -> None:
    names = (*BASE, "model.safetensors")
    one = select_files(listing(*names, version=None), None, "s3")
    more = select_files(listing(*names, "README.md", version=None), None, "s3")
    assert one.version == more.version, "a file that is not fetched is no other model"
    changed = Listing(
        tuple(RemoteFile(name, len(name), "other etag") for name in names), version=None
    )
    assert select_files(changed, None, "s3").version != one.version
