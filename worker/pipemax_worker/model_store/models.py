"""What is asked for, and what is found: plain values."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from pipemax_worker.model_store.checksum import Checksum


class HubModel(msgspec.Struct, frozen=True):
    """A model by its name on a hub.

    revision      branch, tag or commit; None: the main branch.
    missing_path  where a folder of that name was looked for first, for messages.
    """

    repo_id: str
    revision: str | None = None
    missing_path: Path | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id} at {self.revision}"


class S3Model(msgspec.Struct, frozen=True):
    """A model's folder in a bucket: ``s3://bucket/key``."""

    uri: str

    def __str__(self) -> str:
        return self.uri


RemoteModel = HubModel | S3Model


class RemoteFile(msgspec.Struct, frozen=True):
    """One file at its source.

    etag      changes with the content.
    checksum  None where the source gives no hash of the content.
    """

    name: str
    size_bytes: int
    etag: str
    checksum: Checksum | None = None


class Listing(msgspec.Struct, frozen=True):
    """A source's files as of one moment. ``version`` is a commit, or None where there are none."""

    files: tuple[RemoteFile, ...]
    version: str | None = None


class NeededFiles(msgspec.Struct, frozen=True):
    """The files of one version of a model that a run reads, the weights apart."""

    version: str
    small: tuple[RemoteFile, ...]
    weights: tuple[RemoteFile, ...]

    @property
    def all(self) -> tuple[RemoteFile, ...]:
        return (*self.small, *self.weights)

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.all)


class CachedModel(msgspec.Struct, frozen=True):
    """A complete model on this node.

    is_pinned  the version was asked for by its commit: the source has nothing newer to say.
    """

    folder: Path
    version: str
    is_pinned: bool = False


def derive_version(files: tuple[RemoteFile, ...]) -> str:
    """A name for these files' contents, for sources that have no commits. Pure."""
    described = sorted((file.name, file.size_bytes, file.etag) for file in files)
    return hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:16]
