"""Objects as files: whole or not there, created once, durable, with errors that help."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.object_store import ObjectNotFoundError
from pipemax_worker.dataset.places import open_store
from pipemax_worker.errors import OutputError


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_object_is_created_once_and_then_kept(store: LocalStore) -> None:
    assert store.put_if_absent("results/a", b"first")
    assert not store.put_if_absent("results/a", b"second")
    assert store.get("results/a") == b"first"
    assert _files(Path(store.place)) == {"results/a"}


def test_put_replaces_and_delete_removes(store: LocalStore) -> None:
    store.put("a/b", b"1")
    store.put("a/b", b"2")
    assert store.get("a/b") == b"2"
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")
    with pytest.raises(ObjectNotFoundError, match="a/b"):
        store.get("a/b")


def test_list_sorts_filters_and_hides_temporaries(store: LocalStore) -> None:
    for key in ("results/2", "results/10", "results/1", "ledger/done/1", "manifest.json"):
        store.put(key, b"")
    (Path(store.place) / ".tmp" / "left").write_bytes(b"x")
    assert store.list("results/") == ["results/1", "results/10", "results/2"]
    assert store.list("results/1") == ["results/1", "results/10"]
    assert store.list("ledger/claims/") == []
    assert len(store.list("")) == 5


def test_many_threads_create_one_object_once(store: LocalStore) -> None:
    num_threads, num_keys = 8, 20
    barrier = threading.Barrier(num_threads)
    created: list[tuple[str, int]] = []

    def create(thread: int) -> None:
        barrier.wait()
        for number in range(num_keys):
            if store.put_if_absent(f"k/{number}", str(thread).encode()):
                created.append((f"k/{number}", thread))

    threads = [threading.Thread(target=create, args=(thread,)) for thread in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == num_keys
    assert {key: str(thread).encode() for key, thread in created} == {
        key: store.get(key) for key in store.list("k/")
    }


def test_create_is_decided_by_the_link_not_by_the_look_before(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"first")
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_a_repeated_network_link_counts_as_created(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_and_complain(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_and_complain)
    assert store.put_if_absent("a", b"mine")


def test_data_is_durable_before_its_name_and_the_folder_after(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("results/first", b"")
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def record_fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).parent.name}")
        fsync(descriptor)

    def record_link(source: Path, target: Path) -> None:
        events.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "link", record_link)
    store.put_if_absent("results/second", b"data")
    assert events == ["fsync .tmp", "link", "fsync out"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "I/O error"),
    ],
)
@pytest.mark.parametrize("verb", ["put", "put_if_absent"])
def test_a_failed_write_names_the_place_and_leaves_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, verb: str
) -> None:
    store.put("results/kept", b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=advice) as caught:
        getattr(store, verb)("results/new", b"data")
    assert store.place in str(caught.value)
    assert _files(Path(store.place)) == {"results/kept"}


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="choose another output"):
            LocalStore(root).probe()


def test_probe_proves_and_tidies(store: LocalStore) -> None:
    temporary = Path(store.place) / ".tmp"
    temporary.mkdir(parents=True)
    old, young = temporary / "old", temporary / "young"
    for path in (old, young):
        path.write_bytes(b"left by a killed worker")
    os.utime(old, (0, 0))
    store.probe()
    assert _files(Path(store.place)) == {".tmp/young"}


def test_probe_leaves_nothing_when_the_disk_fills_under_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def full_after_the_first_file(descriptor: int) -> None:
        calls.append(descriptor)
        if any(Path(store.place).rglob("probe-*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_the_first_file)
    with pytest.raises(OutputError, match="disk is full"):
        store.probe()
    assert calls
    assert _files(Path(store.place)) == set()


def test_probe_refuses_a_file_system_without_atomic_create(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", lambda source, target: os.replace(source, target))
    with pytest.raises(OutputError, match="another file system"):
        store.probe()


def test_probe_refuses_a_file_system_without_links(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputError, match="hard links"):
        store.probe()


def test_keys_stay_in_the_folder(store: LocalStore) -> None:
    for key in ("/etc/passwd", "../other", "a/../../b"):
        with pytest.raises(OutputError, match="leads out"):
            store.put(key, b"")


def test_open_store_takes_paths_and_file_uris(tmp_path: Path) -> None:
    for place in (tmp_path / "a b", str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        open_store(place).put("key", b"1")
    assert (tmp_path / "a b" / "key").read_bytes() == b"1"


def test_open_store_refuses_other_schemes_by_name() -> None:
    with pytest.raises(OutputError, match=r"gs://bucket/key: expected a path.*s3://bucket/prefix"):
        open_store("gs://bucket/key")
