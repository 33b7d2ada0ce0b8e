"""The bytes of several files at once, with room for them checked first."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipemax_worker.contract.clock import Clock, MonotonicClock
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.errors import ModelDownloadError
from pipemax_worker.model_store.file_download import FileDownload, FileTransfer
from pipemax_worker.model_store.progress import DownloadMeter
from pipemax_worker.model_store.source import ModelSource
from pipemax_worker.model_store.threads import run_in_threads
from pipemax_worker.model_store.watch import Watch

MAX_FILES_AT_ONCE = 8
_SPARE_BYTES = 64 << 20
"""Left free, for whoever else writes there."""


def check_room(downloads: Sequence[FileDownload], folder: Path) -> None:
    """Raises ModelDownloadError naming what is missing on the file system of ``folder``."""
    wanted = sum(one.file.size_bytes - one.bytes_found for one in downloads)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ModelDownloadError(
            f"{folder}: the model cache cannot be used: {error}; name another folder in "
            "spec.model.cacheDir"
        ) from error
    missing = wanted + _SPARE_BYTES - free
    if wanted and missing > 0:
        raise ModelDownloadError(
            f"{folder}: {_gib(missing)} more is needed: {_gib(wanted)} of the model are still to "
            f"be fetched and {_gib(free)} are free; make room, or name another folder in "
            "spec.model.cacheDir"
        )


def transfer(
    source: ModelSource,
    version: str,
    downloads: Sequence[FileDownload],
    meter: DownloadMeter,
    retry: RetryPolicy,
    watch: Watch,
    clock: Clock | None = None,
) -> None:
    """Fetch all files, large ones first. Raises what :class:`FileTransfer` and ``watch`` raise."""

    def tick() -> None:
        meter.report()
        watch.check_stop()

    by_size = sorted(downloads, key=lambda one: -one.file.size_bytes)
    clock = clock or MonotonicClock()
    transfers = [FileTransfer(source, version, one, meter, retry, clock) for one in by_size]
    run_in_threads([one.run for one in transfers], MAX_FILES_AT_ONCE, tick)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
