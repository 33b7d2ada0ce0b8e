"""Our own cache folder, for models that no hub's libraries know:

    BUCKET--KEY--HASH/VERSION/FILE            the model's folder
    BUCKET--KEY--HASH/VERSION/.complete.json  its marker, written last; without it nobody looks

``VERSION`` is a hash of the files' names, sizes and ETags: an object that changes at its source is
another version, and never mixes with what was fetched of the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from pathlib import Path

import msgspec

from pipemax_worker.model_store.file_download import FileDownload, is_whole, publish
from pipemax_worker.model_store.models import CachedModel, NeededFiles, RemoteFile

MARKER = ".complete.json"
_PARTIAL_SUFFIX = ".partial"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME_LENGTH = 150


class _Marker(msgspec.Struct, frozen=True):
    """``sizes``: file name to size in bytes."""

    source: str
    sizes: dict[str, int]


class FolderCache:
    """A :class:`~pipemax_worker.model_store.cache.ModelCache` for one model.

    ``source`` is everything that tells it from others: its URI and the server.
    """

    def __init__(self, folder: Path, source: str, name: str) -> None:
        readable = _NOT_IN_NAMES.sub("--", name).strip("-")[:_MAX_NAME_LENGTH]
        digest = hashlib.sha256(source.encode()).hexdigest()[:8]
        self.folder = folder
        self._source = source
        self._model_folder = folder / f"{readable}--{digest}"
        self.lock_path = self._model_folder / "pipemax.lock"

    def find(self) -> CachedModel | None:
        """The version that was used last."""
        markers = sorted(self._model_folder.glob(f"*/{MARKER}"), key=_modified, reverse=True)
        folders = [marker.parent for marker in markers if _is_complete(marker.parent)]
        return CachedModel(folders[0], folders[0].name) if folders else None

    def find_version(self, needed: NeededFiles) -> CachedModel | None:
        folder = self._model_folder / needed.version
        return CachedModel(folder, needed.version) if _is_complete(folder) else None

    def has(self, version: str, file: RemoteFile) -> bool:
        return is_whole(self._model_folder / version / file.name, file)

    def download_of(self, version: str, file: RemoteFile) -> FileDownload:
        target = self._model_folder / version / file.name
        return FileDownload(file, target.with_name(target.name + _PARTIAL_SUFFIX), target)

    def add(self, version: str, files: tuple[RemoteFile, ...]) -> Path:
        """The files are where they belong already."""
        return self._model_folder / version

    def complete(self, needed: NeededFiles) -> CachedModel:
        """Writes the marker, and removes what is left of versions that were never finished."""
        folder = self._model_folder / needed.version
        marker = _Marker(self._source, {file.name: file.size_bytes for file in needed.all})
        new = folder / f"{MARKER}.new"
        new.write_bytes(msgspec.json.encode(marker))
        publish(new, folder / MARKER)
        self._remove_unfinished()
        return CachedModel(folder, needed.version)

    def touch(self, found: CachedModel) -> None:
        """Remember that this version was used last; a cache that is read-only need not."""
        with contextlib.suppress(OSError):
            os.utime(found.folder / MARKER)

    def _remove_unfinished(self) -> None:
        for folder in self._model_folder.iterdir():
            if folder.is_dir() and not (folder / MARKER).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    """With its marker, and every file of the size that the marker names."""
    try:
        marker = msgspec.json.decode((folder / MARKER).read_bytes(), type=_Marker)
        return all((folder / name).stat().st_size == size for name, size in marker.sizes.items())
    except (OSError, msgspec.DecodeError):
        return False


def _modified(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
