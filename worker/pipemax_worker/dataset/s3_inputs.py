"""Input files in a bucket: found by place, identified by ETag, read by ranges.

Every ranged read says which ETag it means (``If-Match``), so a file that changes is noticed by the
very next read, and two versions are never mixed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import glob
import io
import os
from collections.abc import Iterator, Mapping, Sequence

from pipemax_worker.dataset.object_store import (
    ObjectChangedError,
    ObjectInfo,
    ObjectNotFoundError,
)
from pipemax_worker.dataset.ranged_file import RangedFile
from pipemax_worker.dataset.s3_failures import FailureKind, S3RequestError
from pipemax_worker.dataset.s3_settings import S3Location, parse_s3
from pipemax_worker.dataset.s3_store import S3Store, open_s3
from pipemax_worker.errors import (
    InputError,
    InputNotFoundError,
    InputUnavailableError,
)

_BUFFER_BYTES = 1024 * 1024
_MAX_STORES = 16


def find_objects(location: S3Location, folder_patterns: Sequence[str]) -> list[ObjectInfo]:
    """The objects of a place: one key, a folder (what matches ``folder_patterns`` right in it) or
    a glob (``**`` goes down folders). Keys are those in the bucket.

    Raises InputNotFoundError where nothing is found, InputUnavailableError.
    """
    with _named_errors(str(location)):
        store = _bucket(location)
        if location.key:
            with contextlib.suppress(ObjectNotFoundError):
                return [store.head(location.key)]
        if glob.has_magic(location.key):
            return _match(store, location)
        folder = f"{location.key}/" if location.key else ""
        found = [
            info
            for info in store.list_objects(folder)
            if _matches_any(info.key.removeprefix(folder), folder_patterns)
        ]
    if not found:
        raise InputNotFoundError(
            f"{location}: no such object, and no folder that holds {' or '.join(folder_patterns)}; "
            "check input.uri, or name the files with a glob if they are called otherwise"
        )
    return found


def matches_glob(key: str, pattern: str) -> bool:
    """As the shell has it: ``*`` ends at a slash, ``**`` stands for any folders, and neither finds
    a name that starts with a dot. Pure."""
    return _match_parts(key.split("/"), pattern.split("/"))


def open_object(uri: str, etag: str, size_bytes: int, end: int | None = None) -> io.BufferedReader:
    """The object's bytes as a file; ``end`` is where the reader means to stop.

    Reading raises InputError if the object is another one than ``etag`` names, or gone, and
    InputUnavailableError if the store does not answer.
    """
    location = _location(uri)
    store = _bucket(location)

    def fetch(start: int, stop: int) -> bytes:
        with _named_errors(uri):
            return store.get_range(location.key, start, stop, etag)

    return io.BufferedReader(RangedFile(fetch, size_bytes, end), _BUFFER_BYTES)


def check_object_unchanged(uri: str, etag: str) -> None:
    """Raises InputError if the object is gone or another, InputUnavailableError."""
    location = _location(uri)
    with _named_errors(uri):
        found = _bucket(location).etag(location.key)
        if found != etag:
            raise ObjectChangedError(f"its ETag was {etag} and is {found}")


def _match(store: S3Store, location: S3Location) -> list[ObjectInfo]:
    found = [
        info
        for info in store.list_objects(_folder_without_magic(location.key))
        if matches_glob(info.key, location.key)
    ]
    if not found:
        raise InputNotFoundError(f"{location}: no object matches this pattern; check input.uri")
    return found


def _folder_without_magic(pattern: str) -> str:
    """What every match starts with, up to its last slash."""
    parts = pattern.split("/")
    num_plain = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return "".join(f"{part}/" for part in parts[:num_plain])


def _match_parts(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        if _match_parts(parts, patterns[1:]):
            return True
        return bool(parts) and not parts[0].startswith(".") and _match_parts(parts[1:], patterns)
    return (
        bool(parts) and _match_name(parts[0], patterns[0]) and _match_parts(parts[1:], patterns[1:])
    )


def _match_name(name: str, pattern: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatch.fnmatchcase(name, pattern)


def _matches_any(name: str, patterns: Sequence[str]) -> bool:
    return "/" not in name and any(_match_name(name, pattern) for pattern in patterns)


def _location(uri: str) -> S3Location:
    location = parse_s3(uri)
    if location is None:
        raise InputNotFoundError(f"{uri}: expected s3://bucket/key")
    return location


def _bucket(location: S3Location) -> S3Store:
    variables = {
        name: value for name, value in os.environ.items() if name.startswith(("AWS_", "PIPEMAX_"))
    }
    return _open_bucket(location.bucket, tuple(sorted(variables.items())))


@functools.lru_cache(maxsize=_MAX_STORES)
def _open_bucket(bucket: str, variables: tuple[tuple[str, str], ...]) -> S3Store:
    """Shared by all readers, for its connections."""
    environment: Mapping[str, str] = dict(variables)
    return open_s3(f"s3://{bucket}", environment)


@contextlib.contextmanager
def _named_errors(place: str) -> Iterator[None]:
    """The store's errors as those of an input."""
    try:
        yield
    except ObjectChangedError as error:
        raise InputError(
            f"{place}: the input changed while the job runs: {error}; "
            "restore the file, or run the changed input with a new output"
        ) from error
    except ObjectNotFoundError as error:
        raise InputError(
            f"{place}: the input is gone while the job runs; restore the file"
        ) from error
    except S3RequestError as error:
        if error.kind is FailureKind.NO_BUCKET:
            raise InputNotFoundError(str(error)) from error
        raise InputUnavailableError(str(error)) from error
