"""A model's folder in an S3 bucket, over the store that inputs and outputs use too.

A file's hash is taken from ``SHA256SUMS`` beside the model, if there is one (``sha256sum * >
SHA256SUMS``), else from an ETag that is the MD5 of the content: the case for objects that were not
uploaded in parts. An ETag of parts (``...-7``) names no content; it still tells one upload from
another, and each range is asked for by it, so that bytes of two uploads never mix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.dataset.object_store import (
    ObjectChangedError,
    ObjectInfo,
    ObjectNotFoundError,
)
from pipemax_worker.dataset.s3_failures import FailureKind, classify_failure
from pipemax_worker.dataset.s3_settings import read_settings
from pipemax_worker.dataset.s3_store import open_s3
from pipemax_worker.errors import (
    ModelDownloadError,
    ModelNotFoundError,
    OutputError,
    PipemaxError,
)
from pipemax_worker.model_store.checksum import Checksum, ChecksumKind
from pipemax_worker.model_store.models import Listing, RemoteFile, S3Model
from pipemax_worker.model_store.source import SourceUnavailableError

CHECKSUMS_FILE = "SHA256SUMS"

_RANGE_BYTES = 16 << 20
_ONE_TRY = RetryPolicy(max_seconds=0.0)
_MD5 = re.compile(r"[0-9a-f]{32}")
_NO_RIGHT = re.compile(r"status code: 40[13]")
_CHECKSUM_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(\S.*)")
_MISSING_KINDS = {
    FailureKind.NOT_FOUND,
    FailureKind.NO_BUCKET,
    FailureKind.DENIED,
    FailureKind.NO_CREDENTIALS,
}


class S3Source:
    """A :class:`~pipemax_worker.model_store.source.ModelSource`."""

    def __init__(self, model: S3Model, environment: Mapping[str, str]) -> None:
        self._uri = model.uri.rstrip("/")
        try:
            self._server = read_settings(environment).server
            self._store = open_s3(self._uri, environment, _ONE_TRY)
        except OutputError as error:
            raise self._translate(error) from error

    @property
    def place(self) -> str:
        return f"{self._uri} at {self._server}"

    def list_files(self) -> Listing:
        try:
            found = [info for info in self._store.list_objects("") if "/" not in info.key]
            has_checksums = any(info.key == CHECKSUMS_FILE for info in found)
            text = self._store.get(CHECKSUMS_FILE) if has_checksums else b""
        except OutputError as error:
            raise self._translate(error) from error
        known = parse_checksums(text)
        return Listing(tuple(_remote_file(info, known) for info in found))

    def read(self, version: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        while offset < file.size_bytes:
            end = min(offset + _RANGE_BYTES, file.size_bytes)
            try:
                data = self._store.get_range(file.name, offset, end, file.etag)
            except OutputError as error:
                raise self._translate(error) from error
            if not data:
                return
            yield data
            offset += len(data)

    def _translate(self, error: OutputError) -> PipemaxError:
        """A failed read of the store, in a model's words."""
        place = f"spec.model.uri: {self._uri}"
        if isinstance(error, ObjectNotFoundError):
            return ModelNotFoundError(f"{place}: {error}; run again, or check the folder")
        if isinstance(error, ObjectChangedError):
            return ModelDownloadError(f"{place}: {error}: it changes while it is read; run again")
        if not isinstance(error.__cause__, Exception):
            return ModelNotFoundError(f"{place}: {error}")
        failure = classify_failure(error.__cause__)
        if _NO_RIGHT.search(str(error.__cause__)):  # for lists obstore has no error of its own
            failure = msgspec.structs.replace(failure, kind=FailureKind.DENIED)
        if failure.kind in _MISSING_KINDS:
            return ModelNotFoundError(f"{self._where(place)}: {failure}; {failure.advice}")
        if failure.is_temporary:
            return SourceUnavailableError(
                f"{self._where(place)}: {failure}; check that the server can be reached, then run "
                "again: what was fetched is kept"
            )
        return ModelDownloadError(f"{self._where(place)}: {failure}; {failure.advice}")

    def _where(self, place: str) -> str:
        return f"{place} at {self._server}"


def parse_checksums(text: bytes) -> dict[str, str]:
    """File name to SHA-256, from what ``sha256sum`` prints. Other lines are passed over."""
    lines = text.decode("utf-8", "replace").splitlines()
    found = (_CHECKSUM_LINE.fullmatch(line.strip()) for line in lines)
    return {match.group(2): match.group(1).lower() for match in found if match}


def _remote_file(info: ObjectInfo, known: Mapping[str, str]) -> RemoteFile:
    return RemoteFile(info.key, info.size_bytes, info.etag, _checksum(info, known))


def _checksum(info: ObjectInfo, known: Mapping[str, str]) -> Checksum | None:
    if info.key in known:
        return Checksum(ChecksumKind.SHA256, known[info.key])
    etag = info.etag.strip('"').lower()
    return Checksum(ChecksumKind.MD5, etag) if _MD5.fullmatch(etag) else None
