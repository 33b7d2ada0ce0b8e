"""The hub's cache folder, in the layout that all its libraries share, so that each finds what
another has fetched:

    models--ORG--NAME/blobs/HASH                a file's content, under the hash that the hub names
    models--ORG--NAME/snapshots/COMMIT/FILE     a link to it
    models--ORG--NAME/refs/REVISION             the commit that a branch or tag meant

(https://huggingface.co/docs/huggingface_hub/guides/manage-cache.) Weights are linked after all
other files, and the reference is written last: a snapshot whose weights are there is complete.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from pipemax_worker.dataset.model_weights import weight_files
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.model_store.file_download import FileDownload, is_whole, sync_folder
from pipemax_worker.model_store.models import CachedModel, HubModel, NeededFiles, RemoteFile
from pipemax_worker.model_store.needed_files import REQUIRED_FILES

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT_REVISION = "main"
_PARTIAL_SUFFIX = ".pipemax-partial"


class HubCache:
    """A :class:`~pipemax_worker.model_store.cache.ModelCache` for one hub id and revision."""

    def __init__(self, folder: Path, model: HubModel) -> None:
        self._model_folder = folder / f"models--{model.repo_id.replace('/', '--')}"
        self._revision = model.revision or _DEFAULT_REVISION
        self.folder = folder
        self.lock_path = folder / ".locks" / self._model_folder.name / "pipemax.lock"

    def find(self) -> CachedModel | None:
        is_pinned = _COMMIT.fullmatch(self._revision) is not None
        commit = self._revision if is_pinned else self._read_reference()
        if commit is None or not _is_complete(self._snapshot(commit)):
            return None
        return CachedModel(self._snapshot(commit), commit, is_pinned)

    def find_version(self, needed: NeededFiles) -> CachedModel | None:
        folder = self._snapshot(needed.version)
        if not all(is_whole(folder / file.name, file) for file in needed.all):
            return None
        return CachedModel(folder, needed.version)

    def has(self, version: str, file: RemoteFile) -> bool:
        blob = self.download_of(version, file).target
        return is_whole(self._snapshot(version) / file.name, file) or is_whole(blob, file)

    def download_of(self, version: str, file: RemoteFile) -> FileDownload:
        blob = self._model_folder / "blobs" / file.etag
        return FileDownload(file, blob.with_name(blob.name + _PARTIAL_SUFFIX), blob)

    def add(self, version: str, files: tuple[RemoteFile, ...]) -> Path:
        folder = self._snapshot(version)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            if not is_whole(folder / file.name, file):
                _link(self.download_of(version, file).target, folder / file.name)
        sync_folder(folder)
        return folder

    def complete(self, needed: NeededFiles) -> CachedModel:
        if needed.version != self._revision:
            self._write_reference(needed.version)
        return CachedModel(self._snapshot(needed.version), needed.version)

    def touch(self, found: CachedModel) -> None:
        """The branch may mean another commit than it did, one that is here already."""
        if not found.is_pinned and self._read_reference() != found.version:
            with contextlib.suppress(OSError):
                self._write_reference(found.version)

    def _snapshot(self, commit: str) -> Path:
        return self._model_folder / "snapshots" / commit

    @property
    def _reference(self) -> Path:
        return self._model_folder / "refs" / self._revision

    def _read_reference(self) -> str | None:
        try:
            text = self._reference.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return text if _COMMIT.fullmatch(text) else None

    def _write_reference(self, commit: str) -> None:
        self._reference.parent.mkdir(parents=True, exist_ok=True)
        new = self._reference.with_name(f"{self._reference.name}.{os.getpid()}.new")
        new.write_text(commit, encoding="utf-8")
        os.replace(new, self._reference)


def _is_complete(folder: Path) -> bool:
    if not all((folder / name).is_file() for name in REQUIRED_FILES):
        return False
    try:
        return all((folder / name).is_file() for name in weight_files(folder))
    except ModelNotFoundError:
        return False


def _link(blob: Path, name: Path) -> None:
    """A link, relative so that the cache can be moved; the file itself where there are no links."""
    name.unlink(missing_ok=True)  # a link into nowhere, or to what is no longer whole
    try:
        name.symlink_to(os.path.relpath(blob, name.parent))
    except OSError:
        os.replace(blob, name)
