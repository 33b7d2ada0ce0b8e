"""Fetches what the cache lacks of one version of a model: under its lock, small files first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.errors import ModelDownloadError
from pipemax_worker.model_store.cache import ModelCache
from pipemax_worker.model_store.lock import locked
from pipemax_worker.model_store.models import CachedModel, NeededFiles, RemoteFile
from pipemax_worker.model_store.progress import DownloadMeter
from pipemax_worker.model_store.source import ModelSource
from pipemax_worker.model_store.transfer import check_room, transfer
from pipemax_worker.model_store.watch import Watch


def missing_files(cache: ModelCache, needed: NeededFiles) -> tuple[RemoteFile, ...]:
    """Those that are not whole on this node; of files with the same place, the first."""
    missing = [file for file in needed.all if not cache.has(needed.version, file)]
    by_place = {cache.download_of(needed.version, file).target: file for file in missing[::-1]}
    return tuple(file for file in missing if file in by_place.values())


def download_model(
    cache: ModelCache,
    source: ModelSource,
    needed: NeededFiles,
    name: str,
    retry: RetryPolicy,
    watch: Watch,
    check_small_files: Callable[[Path], object],
) -> CachedModel:
    """Wait for the lock, fetch what is missing then, and make the version one that is found.

    Raises ModelDownloadError, ModelNotFoundError, and what the two callbacks raise.
    """
    with locked(cache.lock_path, name, watch):
        found = cache.find_version(needed)
        if found is not None:  # whoever held the lock before has fetched it
            return found
        missing = missing_files(cache, needed)
        downloads = {file.name: cache.download_of(needed.version, file) for file in missing}
        check_room(tuple(downloads.values()), cache.folder)
        meter = _build_meter(cache, source, needed, missing, watch)

        def get(files: tuple[RemoteFile, ...]) -> Path:
            wanted = [downloads[file.name] for file in files if file.name in downloads]
            transfer(source, needed.version, wanted, meter, retry, watch)
            return cache.add(needed.version, files)

        try:
            check_small_files(get(needed.small))
            get(needed.weights)
            meter.report(is_last=True)
            return cache.complete(needed)
        except OSError as error:
            raise ModelDownloadError(
                f"{cache.folder}: the model cache cannot be written: {error}; check it, or name "
                "another folder in spec.model.cacheDir; what was fetched is kept"
            ) from error


def _build_meter(
    cache: ModelCache,
    source: ModelSource,
    needed: NeededFiles,
    missing: tuple[RemoteFile, ...],
    watch: Watch,
) -> DownloadMeter:
    """Files that are whole, and the beginnings of others, count as done."""
    missing_bytes = sum(file.size_bytes for file in missing)
    partial_bytes = sum(cache.download_of(needed.version, f).bytes_found for f in missing)
    return DownloadMeter(
        source.place,
        needed.total_bytes - missing_bytes + partial_bytes,
        needed.total_bytes,
        MonotonicClock(),
        watch.show_progress,
    )
