"""Finds the input files and says what identifies them.

Files are named relative to the folder that holds them all, so the same input mounted elsewhere has
the same names. Two names never collide.
"""

from __future__ import annotations

import glob
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from pipemax_worker.dataset.object_store import ObjectInfo
from pipemax_worker.dataset.places import local_path
from pipemax_worker.dataset.s3_inputs import find_objects
from pipemax_worker.dataset.s3_settings import parse_s3
from pipemax_worker.errors import InputError, InputNotFoundError, OutputError

_EDGE_BYTES = 64 * 1024
_SAMPLE_BYTES = 4 * 1024
_NUM_SAMPLES = 16
_FOLDER_PATTERNS = ("*.jsonl", "*.jsonl.gz")
_ETAG_PREFIX = "etag:"
_BUCKETS = "/s3:"


class InputFile(msgspec.Struct, frozen=True):
    """One input file. ``name``, ``size_bytes`` and ``content_hash`` identify it across machines.

    content_hash  SHA-256 of its two ends and of samples between (:func:`hash_content`); of an
                  object in a bucket ``etag:`` and its ETag.
    path          where it lies here (a path, or ``s3://bucket/key``); ``modified_ns`` the time
                  stamp of a local file: a quick sign of change.
    """

    name: str
    size_bytes: int
    content_hash: str
    path: str = ""
    modified_ns: int = 0

    @property
    def is_compressed(self) -> bool:
        return self.name.endswith(".gz")

    @property
    def is_remote(self) -> bool:
        """Whether it lies in a bucket."""
        return self.path.startswith("s3://")

    @property
    def etag(self) -> str:
        """Of a remote file; else empty."""
        return self.content_hash.removeprefix(_ETAG_PREFIX) if self.is_remote else ""


def discover_inputs(places: Sequence[str | Path]) -> tuple[InputFile, ...]:
    """All files of ``places``, sorted by name: each a file, a folder (its ``*.jsonl`` and
    ``*.jsonl.gz``) or a glob (``**`` goes down folders), local or ``s3://bucket/key``.

    An empty file is legal and has no requests. Raises InputNotFoundError for a place where nothing
    is found, InputError if a file cannot be read or all files together hold no byte,
    InputUnavailableError if a store does not answer.
    """
    found = {path: file for place in places for path, file in _find(place)}
    if not found:
        raise InputNotFoundError("no input is given; name a file, a folder or a glob in input.uri")
    parent = posixpath.commonpath([posixpath.dirname(path) for path in found])
    files = [
        _describe(path, posixpath.relpath(path, parent), info)
        for path, info in sorted(found.items())
    ]
    if not any(file.size_bytes for file in files):
        shown = ", ".join(str(place) for place in places)
        raise InputError(f"{shown}: no requests: the input is empty (0 bytes)")
    return tuple(sorted(files, key=lambda file: file.name))


def hash_content(path: str, size_bytes: int) -> str:
    """SHA-256 of the size, both ends (64 KiB each) and 16 samples of 4 KiB: at most 192 KiB read.

    Finds every change of size and nearly every regenerated file; not one flipped byte in a large
    file. Raises OSError.
    """
    digest = hashlib.sha256(str(size_bytes).encode())
    with open(path, "rb") as file:
        for offset, length in _sampled_areas(size_bytes):
            file.seek(offset)
            digest.update(file.read(length))
    return digest.hexdigest()


def _sampled_areas(size_bytes: int) -> Iterable[tuple[int, int]]:
    yield 0, _EDGE_BYTES
    if size_bytes > _EDGE_BYTES:
        yield max(_EDGE_BYTES, size_bytes - _EDGE_BYTES), _EDGE_BYTES
    between = size_bytes - 2 * _EDGE_BYTES
    if between > 0:
        for number in range(_NUM_SAMPLES):
            yield _EDGE_BYTES + between * number // _NUM_SAMPLES, _SAMPLE_BYTES


def _find(place: str | Path) -> list[tuple[str, ObjectInfo | None]]:
    """Each file under an absolute path; buckets count as folders under ``/s3:``."""
    location = parse_s3(place) if isinstance(place, str) else None
    if location is None:
        return [(path, None) for path in _expand(place)]
    objects = find_objects(location, _FOLDER_PATTERNS)
    return [(f"{_BUCKETS}/{location.bucket}/{info.key}", info) for info in objects]


def _expand(place: str | Path) -> list[str]:
    try:
        path = os.path.abspath(local_path(place))
    except OutputError as error:
        raise InputNotFoundError(str(error)) from None
    if os.path.isdir(path):
        return _expand_folder(path)
    if os.path.exists(path):
        return [path]
    if not glob.has_magic(path):
        raise InputNotFoundError(f"{path}: no such file or folder; check input.uri")
    found = [match for match in glob.glob(path, recursive=True) if not os.path.isdir(match)]
    if not found:
        raise InputNotFoundError(f"{path}: no file matches this pattern; check input.uri")
    return found


def _expand_folder(folder: str) -> list[str]:
    patterns = [os.path.join(glob.escape(folder), pattern) for pattern in _FOLDER_PATTERNS]
    found = [path for pattern in patterns for path in glob.glob(pattern)]
    if not found:
        raise InputNotFoundError(
            f"{folder}: the folder holds no {' or '.join(_FOLDER_PATTERNS)}; "
            "name the files with a glob if they are called otherwise"
        )
    return found


def _describe(path: str, name: str, info: ObjectInfo | None) -> InputFile:
    if info is not None:
        uri = f"s3:/{path.removeprefix(_BUCKETS)}"
        return InputFile(name, info.size_bytes, f"{_ETAG_PREFIX}{info.etag}", uri)
    return _describe_local(path, name)


def _describe_local(path: str, name: str) -> InputFile:
    try:
        name.encode()
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a regular file; write the input to a file first")
        content_hash = hash_content(path, status.st_size)
    except UnicodeEncodeError:
        raise InputError(f"{path!a}: the file's name is not UTF-8; rename it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return InputFile(
        name=Path(name).as_posix(),
        size_bytes=status.st_size,
        content_hash=content_hash,
        path=path,
        modified_ns=status.st_mtime_ns,
    )
