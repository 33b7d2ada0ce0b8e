"""The source and the cache that belong to a model's kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipemax_worker.dataset.s3_settings import read_settings
from pipemax_worker.errors import ModelNotFoundError, OutputError
from pipemax_worker.model_store.cache import ModelCache
from pipemax_worker.model_store.environment import hub_cache_folder, s3_cache_folder
from pipemax_worker.model_store.folder_cache import FolderCache
from pipemax_worker.model_store.hub_cache import HubCache
from pipemax_worker.model_store.models import HubModel, RemoteModel, S3Model
from pipemax_worker.model_store.source import ModelSource


def open_cache(
    model: RemoteModel, cache_folder: Path | None, environment: Mapping[str, str]
) -> ModelCache:
    """Touches nothing. Raises ModelNotFoundError for S3 settings that cannot be read."""
    if isinstance(model, HubModel):
        return HubCache(cache_folder or hub_cache_folder(environment), model)
    uri = model.uri.rstrip("/")
    try:
        server = read_settings(environment).server
    except OutputError as error:
        raise ModelNotFoundError(f"spec.model.uri: {model}: {error}") from error
    name = uri.partition("://")[2]
    return FolderCache(s3_cache_folder(environment, cache_folder), f"{uri} at {server}", name)


def open_source(model: RemoteModel, environment: Mapping[str, str]) -> ModelSource:
    """Makes no request. Raises ModelNotFoundError for settings that cannot be read."""
    # Imported here: each takes a third of a second, and few jobs need one of them.
    if isinstance(model, S3Model):
        from pipemax_worker.model_store.s3 import S3Source

        return S3Source(model, environment)
    from pipemax_worker.model_store.hub import HubSource

    return HubSource(model, environment)
