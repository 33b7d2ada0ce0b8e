"""Our own cache: a folder without its marker is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pipemax_worker.model_store.folder_cache import MARKER, FolderCache
from pipemax_worker.model_store.models import CachedModel, NeededFiles, RemoteFile

FILES = (RemoteFile("config.json", 3, "1"), RemoteFile("model.safetensors", 5, "2"))


def needed_of(version: str = "v1") -> NeededFiles:
    return NeededFiles(version, FILES[:1], FILES[1:])


def write_files(cache: FolderCache, version: str = "v1") -> Path:
    for file in FILES:
        target = cache.download_of(version, file).target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x" * file.size_bytes)
    return cache.add(version, FILES)


def fetch(cache: FolderCache, version: str = "v1") -> CachedModel:
    write_files(cache, version)
    return cache.complete(needed_of(version))


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    return FolderCache(tmp_path, "s3://bucket/models/tiny at server", "bucket/models/tiny")


def test_only_a_marked_folder_is_found(cache: FolderCache) -> None:
    folder = write_files(cache)
    assert cache.find() is None
    assert cache.find_version(needed_of()) is None
    assert all(cache.has("v1", file) for file in FILES)
    found = cache.complete(needed_of())
    assert found == CachedModel(folder, "v1") == cache.find() == cache.find_version(needed_of())
    assert folder.parent.name.startswith("bucket--models--tiny--")
    assert sorted(os.listdir(folder)) == [MARKER, "config.json", "model.safetensors"]


def test_a_marked_folder_that_lost_a_file_is_not_complete(cache: FolderCache) -> None:
    found = fetch(cache)
    (found.folder / "model.safetensors").write_bytes(b"")
    assert cache.find() is None
    assert not cache.has("v1", FILES[1])
    (found.folder / "model.safetensors").unlink()
    assert cache.find_version(needed_of()) is None


def test_a_torn_marker_is_none(cache: FolderCache) -> None:
    found = fetch(cache)
    (found.folder / MARKER).write_bytes(b'{"source": "s3:')
    assert cache.find() is None


def test_the_version_used_last_is_found(cache: FolderCache) -> None:
    first, second = fetch(cache, "v1"), fetch(cache, "v2")
    os.utime(first.folder / MARKER, (1, 1))
    assert cache.find() == second
    os.utime(second.folder / MARKER, (2, 2))
    cache.touch(first)
    assert cache.find() == first


def test_what_was_never_finished_is_removed(cache: FolderCache) -> None:
    begun = write_files(cache, "v1")
    kept = fetch(cache, "v2").folder
    assert not begun.exists()
    assert fetch(cache, "v3").folder.exists()
    assert kept.exists(), "another job may use it"


def test_models_of_other_servers_or_names_lie_apart(tmp_path: Path, cache: FolderCache) -> None:
    fetch(cache)
    for source in ("s3://bucket/models/tiny at other", "s3://bucket/models--tiny at server"):
        assert FolderCache(tmp_path, source, "bucket/models/tiny").find() is None
    assert len(FolderCache(tmp_path, "s", "x/" * 500).lock_path.parent.name) < 200
