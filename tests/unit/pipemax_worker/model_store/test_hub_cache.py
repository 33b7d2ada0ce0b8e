"""The hub's layout: what other programs fetched is found, and they find what we fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pipemax_worker.model_store.hub_cache import HubCache
from pipemax_worker.model_store.models import CachedModel, HubModel, NeededFiles, RemoteFile

COMMIT, OTHER = "a" * 40, "b" * 40
NAMES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def needed_of(commit: str = COMMIT) -> NeededFiles:
    files = tuple(RemoteFile(name, len(name), f"hash-{name}") for name in NAMES)
    return NeededFiles(commit, files[:-1], files[-1:])


def fetch(cache: HubCache, needed: NeededFiles) -> CachedModel:
    for file in needed.all:
        target = cache.download_of(needed.version, file).target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.name)
    cache.add(needed.version, needed.all)
    return cache.complete(needed)


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    return HubCache(tmp_path, HubModel("org/name"))


def test_the_layout_is_the_hubs(cache: HubCache, tmp_path: Path) -> None:
    found = fetch(cache, needed_of())
    assert found.folder == tmp_path / "models--org--name" / "snapshots" / COMMIT
    link = found.folder / "config.json"
    assert os.readlink(link) == "../../blobs/hash-config.json"
    assert (tmp_path / "models--org--name" / "refs" / "main").read_text() == COMMIT
    assert cache.find() == found == cache.find_version(needed_of())


def test_the_library_finds_it(cache: HubCache, tmp_path: Path) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download

    found = fetch(cache, needed_of())
    folder = snapshot_download("org/name", cache_dir=tmp_path, local_files_only=True)
    assert Path(folder) == found.folder
    scanned = scan_cache_dir(tmp_path)
    assert [repository.repo_id for repository in scanned.repos] == ["org/name"]
    assert not scanned.warnings


def test_a_commit_is_found_without_a_reference(tmp_path: Path) -> None:
    fetch(HubCache(tmp_path, HubModel("org/name")), needed_of())
    pinned = HubCache(tmp_path, HubModel("org/name", COMMIT))
    found = pinned.find()
    assert found is not None
    assert found.is_pinned
    assert HubCache(tmp_path, HubModel("org/name", OTHER)).find() is None
    assert HubCache(tmp_path, HubModel("org/name", "v1")).find() is None
    assert pinned.complete(needed_of()).folder == found.folder
    assert not (tmp_path / "models--org--name" / "refs" / COMMIT).exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_that_lacks_a_file_is_not_used(cache: HubCache, name: str) -> None:
    found = fetch(cache, needed_of())
    (found.folder / name).resolve().unlink()
    assert cache.find() is None
    assert cache.find_version(needed_of()) is None
    assert [f.name for f in needed_of().all if not cache.has(COMMIT, f)] == [name]


def test_a_blob_that_was_cut_is_not_whole(cache: HubCache) -> None:
    found = fetch(cache, needed_of())
    (found.folder / "model.safetensors").write_bytes(b"")
    assert cache.find_version(needed_of()) is None


def test_a_link_into_nowhere_is_replaced(cache: HubCache) -> None:
    folder = (
        cache.download_of(COMMIT, needed_of().small[0]).target.parents[1] / "snapshots" / COMMIT
    )
    folder.mkdir(parents=True)
    (folder / "config.json").symlink_to("../../blobs/gone")
    assert (fetch(cache, needed_of()).folder / "config.json").read_text() == "config.json"


def test_where_links_are_impossible_the_files_themselves_are_moved(
    cache: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    found = fetch(cache, needed_of())
    assert not (found.folder / "config.json").is_symlink()
    assert cache.find() == found
    assert all(cache.has(COMMIT, file) for file in needed_of().all)


def test_a_branch_that_moved_to_a_commit_that_is_here(cache: HubCache, tmp_path: Path) -> None:
    first = fetch(cache, needed_of())
    fetch(cache, needed_of(OTHER))
    cache.touch(first)
    assert cache.find() == first
    assert not list((tmp_path / "models--org--name" / "refs").glob("*.new"))


def test_rubbish_as_a_reference_is_passed_over(cache: HubCache, tmp_path: Path) -> None:
    fetch(cache, needed_of())
    (tmp_path / "models--org--name" / "refs" / "main").write_text("../../elsewhere")
    assert cache.find() is None
