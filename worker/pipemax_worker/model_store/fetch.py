"""A model from afar, in order: look into the cache, ask the source, fetch under a lock.

``locate_model`` says what there is without fetching; ``fetch_model`` returns a complete folder. The
source is asked even for a model that is cached, since a branch or a bucket may hold a newer one;
whoever wants one version for good names a commit. If the source does not answer, or has lost the
model, what is cached is used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.backoff import Backoff, RetryPolicy
from pipemax_worker.dataset.s3_settings import read_retry_policy
from pipemax_worker.errors import ModelDownloadError, ModelNotFoundError, OutputError
from pipemax_worker.model_store.cache import ModelCache
from pipemax_worker.model_store.download import download_model, missing_files
from pipemax_worker.model_store.environment import offline_variable
from pipemax_worker.model_store.models import CachedModel, HubModel, NeededFiles, RemoteModel
from pipemax_worker.model_store.needed_files import find_weight_index, select_files
from pipemax_worker.model_store.open import open_cache, open_source
from pipemax_worker.model_store.source import ModelSource, SourceUnavailableError
from pipemax_worker.model_store.threads import run_watched
from pipemax_worker.model_store.watch import Watch

_T = TypeVar("_T")

_ONE_TRY = RetryPolicy(max_seconds=0.0)
_MAX_ASKING_SECONDS = 20.0
"""A misspelt path reads like a hub id: its user does not want to wait for minutes."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class FetchSettings:
    """``cache_folder``: None is the hub's own cache folder, and ours beside it for buckets."""

    cache_folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


@dataclass(frozen=True)
class DownloadPlan:
    """What a fetch would do. ``bytes_missing`` leaves out what an earlier try has left."""

    place: str
    folder: Path
    needed: NeededFiles
    bytes_missing: int


def locate_model(
    model: RemoteModel, settings: FetchSettings, watch: Watch | None = None
) -> CachedModel | DownloadPlan:
    """Fetches no file but the weights' index, into memory.

    Raises ModelNotFoundError: no such model, or no network allowed and none cached;
    ModelDownloadError: the source cannot be reached and none is cached.
    """
    found = _Fetch(model, settings, watch or Watch()).locate()
    return found if isinstance(found, CachedModel) else found.plan


def fetch_model(
    model: RemoteModel,
    settings: FetchSettings,
    watch: Watch | None = None,
    check_small_files: Callable[[Path], object] = lambda _folder: None,
) -> CachedModel:
    """The model's folder on this node, complete and verified.

    ``check_small_files`` gets a folder with everything but the weights before these are fetched,
    and may raise. Raises what :func:`locate_model` raises, ModelDownloadError (connection, disk,
    damaged bytes; what was fetched is kept), and what ``watch.check_stop`` raises.
    """
    return _Fetch(model, settings, watch or Watch()).run(check_small_files)


@dataclass(frozen=True)
class _Missing:
    plan: DownloadPlan
    source: ModelSource


class _Fetch:
    """One model, from what the job says to a folder."""

    def __init__(self, model: RemoteModel, settings: FetchSettings, watch: Watch) -> None:
        self._model = model
        self._environment = settings.environment
        self._watch = watch
        self._cache: ModelCache = open_cache(model, settings.cache_folder, settings.environment)
        try:
            self._retry = read_retry_policy(settings.environment)
        except OutputError as error:
            raise ModelDownloadError(str(error)) from error

    def locate(self) -> CachedModel | _Missing:
        found = self._cache.find()
        offline = offline_variable(self._environment)
        if found is not None and (found.is_pinned or offline is not None):
            return found
        if offline is not None:
            raise ModelNotFoundError(self._describe_offline(offline))
        try:
            source = self._watched(lambda: open_source(self._model, self._environment))
            needed = self._ask(source, is_cached=found is not None)
        except (ModelNotFoundError, ModelDownloadError) as error:
            if found is None:
                raise
            self._watch.say(f"{error}\n  the cached model is used: {found.folder}")
            return found
        return self._cache.find_version(needed) or _Missing(self._plan(source, needed), source)

    def run(self, check_small_files: Callable[[Path], object]) -> CachedModel:
        found = self.locate()
        if isinstance(found, _Missing):
            found = download_model(
                self._cache,
                found.source,
                found.plan.needed,
                str(self._model),
                self._retry,
                self._watch,
                check_small_files,
            )
        self._cache.touch(found)
        return found

    def _ask(self, source: ModelSource, is_cached: bool) -> NeededFiles:
        """Once, if there is something to fall back on, else for some seconds."""
        seconds = min(self._retry.max_seconds, _MAX_ASKING_SECONDS)
        retry = _ONE_TRY if is_cached else msgspec.structs.replace(self._retry, max_seconds=seconds)
        backoff = Backoff(retry, MonotonicClock(), self._sleep)
        while True:
            try:
                return self._watched(lambda: read_needed_files(source))
            except SourceUnavailableError as error:
                if backoff.num_tries == 1 and not is_cached and seconds > 0:
                    self._watch.say(f"{error}\n  trying again for {seconds:.0f} s")
                if not backoff.wait():
                    raise

    def _plan(self, source: ModelSource, needed: NeededFiles) -> DownloadPlan:
        missing = missing_files(self._cache, needed)
        bytes_found = sum(self._cache.download_of(needed.version, f).bytes_found for f in missing)
        bytes_missing = sum(file.size_bytes for file in missing) - bytes_found
        return DownloadPlan(source.place, self._cache.folder, needed, bytes_missing)

    def _watched(self, work: Callable[[], _T]) -> _T:
        return run_watched(work, self._watch.check_stop)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._watch.check_stop()
            time.sleep(min(left, _POLL_SECONDS))

    def _describe_offline(self, offline: str) -> str:
        model = self._model
        missing = model.missing_path if isinstance(model, HubModel) else None
        no_folder = f", nor is there a folder {missing}" if missing else ""
        return (
            f"spec.model.uri: {model} is not complete in the cache ({self._cache.folder})"
            f"{no_folder}, and {offline} forbids to fetch it; unset that, copy the model there, or "
            "name in spec.model.cacheDir the folder that holds it"
        )


def read_needed_files(source: ModelSource) -> NeededFiles:
    """Ask a source what a fetch would fetch. Raises what the source raises, ModelNotFoundError."""
    listing = source.list_files()
    index = find_weight_index(listing)
    data = None if index is None else b"".join(source.read(listing.version or "", index, 0))
    return select_files(listing, data, source.place)
