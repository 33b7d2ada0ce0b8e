"""Where models lie on this node: what is complete, and where a missing file belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipemax_worker.model_store.file_download import FileDownload
from pipemax_worker.model_store.models import CachedModel, NeededFiles, RemoteFile


class ModelCache(Protocol):
    """One model's part of a cache folder. Only who holds the lock calls ``add``, ``complete``."""

    folder: Path
    lock_path: Path

    def find(self) -> CachedModel | None:
        """The complete version that the job's words mean, as far as this node knows."""
        ...

    def find_version(self, needed: NeededFiles) -> CachedModel | None:
        """This version, if it is complete."""
        ...

    def has(self, version: str, file: RemoteFile) -> bool:
        """Whether the file is whole already, complete version or not."""
        ...

    def download_of(self, version: str, file: RemoteFile) -> FileDownload:
        """Where the file belongs."""
        ...

    def add(self, version: str, files: tuple[RemoteFile, ...]) -> Path:
        """Files that are in their places join the model's folder, which is returned."""
        ...

    def complete(self, needed: NeededFiles) -> CachedModel:
        """All files are there: from now on the version is found."""
        ...

    def touch(self, found: CachedModel) -> None:
        """A run uses this version."""
        ...
