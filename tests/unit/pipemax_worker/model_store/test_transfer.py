"""Several files, with room for all of them."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from kit.remote_models import FakeSource
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.errors import ModelDownloadError, StoppedError
from pipemax_worker.model_store.file_download import FileDownload
from pipemax_worker.model_store.models import RemoteFile
from pipemax_worker.model_store.progress import DownloadMeter
from pipemax_worker.model_store.transfer import check_room, transfer
from pipemax_worker.model_store.watch import Watch

GIB = 2**30
Usage = namedtuple("Usage", "total used free")


def download(folder: Path, size_bytes: int, name: str = "a") -> FileDownload:
    return FileDownload(
        RemoteFile(name, size_bytes, "e"), folder / f"{name}.partial", folder / name
    )


def test_room_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9 * GIB, 0, 3 * GIB))
    both = [download(tmp_path, 2 * GIB), download(tmp_path, 2 * GIB, "b")]
    with pytest.raises(ModelDownloadError, match=r"1\.06 GiB more is needed: 4\.00 GiB .* 3\.00"):
        check_room(both, tmp_path)
    check_room(both[:1], tmp_path)


def test_what_is_there_already_needs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9 * GIB, 0, 100 << 20))
    one = download(tmp_path, 100 << 20)
    with pytest.raises(ModelDownloadError):
        check_room([one], tmp_path)
    with one.partial.open("wb") as partial:
        partial.truncate(90 << 20)
    check_room([one], tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9 * GIB, 0, 0))
    check_room([], tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelDownloadError, match="the model cache cannot be used"):
        check_room([], tmp_path / "file" / "cache")


def test_all_files_and_the_watch_is_asked(tmp_path: Path) -> None:
    content = b"x" * 5000
    source = FakeSource(content)
    downloads = [download(tmp_path, len(content), f"f{n}") for n in range(20)]
    asked: list[int] = []
    meter = DownloadMeter("p", 0, 1, MonotonicClock(), lambda _: None)
    watch = Watch(check_stop=lambda: asked.append(1))
    transfer(source, "v", downloads, meter, RetryPolicy(), watch)
    assert all(one.target.read_bytes() == content for one in downloads)
    assert asked


def test_a_stop_ends_the_transfer(tmp_path: Path) -> None:
    def check_stop() -> None:
        raise StoppedError("Ctrl-C")

    meter = DownloadMeter("p", 0, 1, MonotonicClock(), lambda _: None)
    with pytest.raises(StoppedError):
        transfer(
            FakeSource(b"x"),
            "v",
            [download(tmp_path, 1)],
            meter,
            RetryPolicy(),
            Watch(check_stop=check_stop),
        )
