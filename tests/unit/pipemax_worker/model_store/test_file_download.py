"""One file, in as many tries as it takes, or a reason why not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.remote_models import FakeSource
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.errors import ModelDownloadError
from pipemax_worker.model_store.file_download import (
    FileDownload,
    FileTransfer,
    TransferStoppedError,
)
from pipemax_worker.model_store.models import RemoteFile
from pipemax_worker.model_store.progress import DownloadMeter, DownloadProgress
from pipemax_worker.model_store.source import SourceUnavailableError

CONTENT = bytes(range(256)) * 40
EAGER = RetryPolicy(max_seconds=60, first_delay_seconds=0.0)


class Attempt:
    """One try at fetching ``source``'s file into ``folder``."""

    def __init__(
        self,
        source: FakeSource,
        folder: Path,
        file: RemoteFile | None = None,
        retry: RetryPolicy = EAGER,
    ) -> None:
        self.download = FileDownload(
            file or source.file(), folder / "x" / "weights.partial", folder / "x" / "weights"
        )
        self.stop = threading.Event()
        self.shown: list[DownloadProgress] = []
        found = self.download.bytes_found
        clock = MonotonicClock()
        self.meter = DownloadMeter("p", found, len(source.content), clock, self.shown.append)
        self._transfer = FileTransfer(source, "v", self.download, self.meter, retry)

    @property
    def bytes_done(self) -> int:
        self.meter.report(is_last=True)
        return self.shown[-1].bytes_done

    def run(self) -> bytes:
        self._transfer.run(self.stop)
        assert not self.download.partial.exists()
        return self.download.target.read_bytes()


def test_a_whole_file(tmp_path: Path) -> None:
    source = FakeSource(CONTENT)
    attempt = Attempt(source, tmp_path)
    assert attempt.run() == CONTENT
    assert attempt.bytes_done == len(CONTENT)
    assert source.offsets == [0]


def test_each_try_goes_on_where_the_one_before_broke_off(tmp_path: Path) -> None:
    source = FakeSource(CONTENT, plan=(1500, 0, 3000))
    assert Attempt(source, tmp_path).run() == CONTENT
    assert source.offsets == [0, 1500, 1500, 4500]


def test_a_partial_file_of_an_earlier_process_is_gone_on_with(tmp_path: Path) -> None:
    source = FakeSource(CONTENT)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "weights.partial").write_bytes(CONTENT[:7777])
    attempt = Attempt(source, tmp_path)
    assert attempt.download.bytes_found == 7777
    assert attempt.run() == CONTENT
    assert source.offsets == [7777]
    assert attempt.bytes_done == len(CONTENT)


def test_an_empty_file(tmp_path: Path) -> None:
    assert Attempt(FakeSource(b""), tmp_path).run() == b""


def test_a_source_that_stays_silent(tmp_path: Path) -> None:
    source = FakeSource(CONTENT, plan=(2000, *([0] * 1000)))
    impatient = RetryPolicy(max_seconds=0.2, first_delay_seconds=0.01)
    attempt = Attempt(source, tmp_path, retry=impatient)
    with pytest.raises(SourceUnavailableError, match="the connection broke"):
        attempt.run()
    assert attempt.download.partial.read_bytes() == CONTENT[:2000], "what was fetched is kept"


def test_a_source_that_ends_early_without_a_word(tmp_path: Path) -> None:
    class Short(FakeSource):
        def read(self, version: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
            return iter(())

    with pytest.raises(SourceUnavailableError, match="the source sends nothing"):
        Attempt(Short(CONTENT), tmp_path, retry=RetryPolicy(max_seconds=0.0)).run()


def test_more_bytes_than_there_should_be_are_not_taken(tmp_path: Path) -> None:
    source = FakeSource(CONTENT + b"more")
    file = FakeSource(CONTENT).file()
    assert Attempt(source, tmp_path, file).run() == CONTENT


@pytest.mark.parametrize("damage", [b"\0" * 5000, CONTENT + b"too long"])
def test_damage_in_the_partial_file_is_found_and_all_is_fetched_again(
    tmp_path: Path, damage: bytes
) -> None:
    source = FakeSource(CONTENT)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "weights.partial").write_bytes(damage)
    attempt = Attempt(source, tmp_path)
    assert attempt.run() == CONTENT
    assert source.offsets[-1] == 0
    assert attempt.bytes_done == len(CONTENT)


def test_damage_that_stays_is_an_error_and_no_file(tmp_path: Path) -> None:
    source = FakeSource(CONTENT)
    wrong = FakeSource(CONTENT[::-1]).file()
    attempt = Attempt(source, tmp_path, wrong)
    with pytest.raises(ModelDownloadError, match="fetched 2 times, and its sha256 is not the one"):
        attempt.run()
    assert not attempt.download.target.exists()
    assert not attempt.download.partial.exists()
    assert source.offsets == [0, 0]


def test_without_a_checksum_the_size_counts(tmp_path: Path) -> None:
    source = FakeSource(CONTENT)
    assert Attempt(source, tmp_path, source.file(is_verified=False)).run() == CONTENT


def test_a_stop_keeps_what_was_fetched(tmp_path: Path) -> None:
    class Stopping(FakeSource):
        def read(self, version: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
            yield CONTENT[:1000]
            attempt.stop.set()
            yield CONTENT[1000:2000]
            raise AssertionError("asked for more")

    attempt = Attempt(Stopping(CONTENT), tmp_path)
    with pytest.raises(TransferStoppedError):
        attempt.run()
    assert attempt.download.partial.read_bytes() == CONTENT[:2000]


def test_a_stop_between_two_tries(tmp_path: Path) -> None:
    class Stopping(FakeSource):
        def read(self, version: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
            attempt.stop.set()
            raise SourceUnavailableError("busy")

    patient = RetryPolicy(max_seconds=600, first_delay_seconds=600)
    attempt = Attempt(Stopping(CONTENT), tmp_path, retry=patient)
    with pytest.raises(TransferStoppedError):
        attempt.run()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ModelDownloadError, match=r"cannot be written: .*spec\.model\.cacheDir"):
        Attempt(FakeSource(CONTENT), tmp_path).run()


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """/dev/full takes no byte."""
    source = FakeSource(CONTENT)
    attempt = Attempt(source, tmp_path)
    attempt.download.partial.parent.mkdir()
    attempt.download.partial.symlink_to("/dev/full")
    with pytest.raises(ModelDownloadError, match="No space left on device; make room"):
        attempt.run()
