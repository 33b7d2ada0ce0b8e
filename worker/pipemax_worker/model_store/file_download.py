"""One file, from wherever an earlier try broke off to a verified file in its place.

Bytes go into a partial file beside the target, which outlives the process: the next try asks for
what lies behind its end. Only a partial file of the right size and hash is renamed to the target,
after it is on disk. So a target is whole, whenever the process or the machine ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from pipemax_worker.contract.clock import Clock, MonotonicClock
from pipemax_worker.dataset.backoff import Backoff, RetryPolicy
from pipemax_worker.errors import ModelDownloadError
from pipemax_worker.model_store.checksum import hash_file
from pipemax_worker.model_store.models import RemoteFile
from pipemax_worker.model_store.progress import DownloadMeter
from pipemax_worker.model_store.source import ModelSource, SourceUnavailableError

_MAX_DAMAGED = 2


class TransferStoppedError(Exception):
    """Raised in a transferring thread that was told to stop; never leaves ``threads``."""


class FileDownload(msgspec.Struct, frozen=True):
    """A file to fetch. ``partial`` and ``target`` lie on one file system."""

    file: RemoteFile
    partial: Path
    target: Path

    @property
    def bytes_found(self) -> int:
        """What earlier tries have left on disk."""
        with contextlib.suppress(OSError):
            return min(self.partial.stat().st_size, self.file.size_bytes)
        return 0


class FileTransfer:
    """Carries out one :class:`FileDownload`, in a thread of its own."""

    def __init__(
        self,
        source: ModelSource,
        version: str,
        download: FileDownload,
        meter: DownloadMeter,
        retry: RetryPolicy,
        clock: Clock | None = None,
    ) -> None:
        self._source = source
        self._version = version
        self._file = download.file
        self._partial = download.partial
        self._target = download.target
        self._meter = meter
        self._retry = retry
        self._clock = clock or MonotonicClock()

    def run(self, stop: threading.Event) -> None:
        """Raises ModelDownloadError, ModelNotFoundError, TransferStoppedError."""
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._fetch_and_verify(stop)
        except OSError as error:
            raise self._disk_error(error) from error

    def _fetch_and_verify(self, stop: threading.Event) -> None:
        check_stop = _stop_checker(stop)
        for _ in range(_MAX_DAMAGED):
            self._fetch_rest(stop)
            if self._is_right(check_stop):
                publish(self._partial, self._target)
                return
            self._meter.take_back(min(self._partial.stat().st_size, self._file.size_bytes))
            self._partial.unlink()
        raise ModelDownloadError(self._describe_damage())

    def _fetch_rest(self, stop: threading.Event) -> None:
        """Until the partial file has its size. Raises SourceUnavailableError if no byte comes for
        as long as the retry policy says."""
        backoff = self._backoff(stop)
        while (size_bytes := self._partial_bytes()) < self._file.size_bytes:
            error: SourceUnavailableError | None = None
            try:
                self._receive(size_bytes, stop)
            except SourceUnavailableError as caught:
                error = caught
            if self._partial_bytes() > size_bytes:
                backoff = self._backoff(stop)
            elif not backoff.wait():
                raise error or SourceUnavailableError(
                    f"{self._source.place}: {self._file.name}: the source sends nothing; "
                    "run again later: what was fetched is kept"
                )
            _stop_checker(stop)()

    def _receive(self, offset: int, stop: threading.Event) -> None:
        """Append what the source sends from ``offset`` on."""
        left_bytes = self._file.size_bytes - offset
        with self._partial.open("ab", buffering=0) as partial:
            for chunk in self._source.read(self._version, self._file, offset):
                piece = memoryview(chunk)[:left_bytes]
                while piece:
                    num_written = partial.write(piece)
                    piece = piece[num_written:]
                    left_bytes -= num_written
                    self._meter.add(num_written)
                if stop.is_set():
                    raise TransferStoppedError
                if left_bytes == 0:
                    return

    def _partial_bytes(self) -> int:
        """Creates the file, so that an empty one is fetched too."""
        with self._partial.open("ab") as partial:
            return partial.tell()

    def _is_right(self, check_stop: Callable[[], None]) -> bool:
        if self._partial.stat().st_size != self._file.size_bytes:
            return False
        checksum = self._file.checksum
        if checksum is None:
            return True
        return hash_file(self._partial, checksum.kind, check_stop) == checksum.hex_digest

    def _backoff(self, stop: threading.Event) -> Backoff:
        def sleep(seconds: float) -> None:
            stop.wait(seconds)
            _stop_checker(stop)()

        return Backoff(self._retry, self._clock, sleep)

    def _describe_damage(self) -> str:
        checksum = self._file.checksum
        kind = "size" if checksum is None else checksum.kind.value
        return (
            f"{self._source.place}: {self._file.name}: fetched {_MAX_DAMAGED} times, and its "
            f"{kind} is not the one that the source names; the file is damaged there or on the way "
            "(a bucket whose ETag is no MD5, as with some encryption, needs a file SHA256SUMS "
            "beside the model)"
        )

    def _disk_error(self, error: OSError) -> ModelDownloadError:
        advice = (
            "make room, or name another folder in spec.model.cacheDir"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "check the folder, or name another one in spec.model.cacheDir"
        )
        return ModelDownloadError(
            f"{self._partial}: cannot be written: {error.strerror or error}; {advice}; "
            "what was fetched is kept"
        )


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether the file is there, as far as its size tells."""
    try:
        return path.stat().st_size == file.size_bytes
    except OSError:
        return False


def publish(partial: Path, target: Path) -> None:
    """Rename, once the bytes are on disk. Raises OSError."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Names in the folder survive a power failure. Some file systems cannot, and need not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stop_checker(stop: threading.Event) -> Callable[[], None]:
    def check() -> None:
        if stop.is_set():
            raise TransferStoppedError

    return check
