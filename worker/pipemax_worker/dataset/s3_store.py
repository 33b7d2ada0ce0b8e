"""Objects in an S3 bucket, under a prefix. Exactly-once rests on its conditional writes.

``put_if_absent`` is ``PUT`` with ``If-None-Match: *``: the server creates the key or answers 412.

*A lost answer.* When a connection breaks after the request was sent, the key may have been created
or not, and the next try finds it taken by us or by another. So every call sends a word of its own
with its object (a random ``writer`` in the metadata) and asks, once a try has failed without an
answer, whose word the key carries. Ours: we created it, True. Another's: False. None at all: the
key is gone or never was, and the conditional write is tried again, which is safe, since it creates
nothing twice: a late duplicate of an earlier try of ours is refused, or is the one that created the
key. Bytes alone would nearly do (a record names worker and attempt, so only a segment's own writer
makes its bytes), but not for what two workers may write alike, such as ``ledger/job.json``.

*Against the chain's rule* (``segments``): who creates segment K holds no record of 0..K-1. A True
after a lost answer says that segment K is what this writer made after reading 0..K-1: the rule
holds. A False means another's segment, which the writer reads and takes in. If the store fails for
good, the caller gets OutputError and knows neither; he keeps his records, and his next try at K (or
the next attempt, which reads the chain from 0) finds the key taken, by himself if his request did
land, and drops what it holds. So a lost answer costs a read, never a record.

obstore's own retries are switched off: a repeated conditional write that it makes by itself would
report our own segment as another's.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import msgspec
import obstore

from pipemax_worker.contract.clock import Clock, MonotonicClock
from pipemax_worker.dataset.backoff import Backoff, RetryPolicy
from pipemax_worker.dataset.interruptible import run_interruptibly
from pipemax_worker.dataset.object_store import (
    ObjectChangedError,
    ObjectInfo,
    ObjectNotFoundError,
)
from pipemax_worker.dataset.s3_failures import (
    REQUEST_ERRORS,
    Failure,
    FailureKind,
    build_request_error,
    classify_failure,
)
from pipemax_worker.dataset.s3_probe import prove_conditional_writes
from pipemax_worker.dataset.s3_settings import (
    S3Location,
    S3Settings,
    open_bucket,
    parse_s3,
    read_retry_policy,
    read_settings,
)
from pipemax_worker.errors import OutputError

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions

WRITER_ATTRIBUTE = "pipemax-writer"

_T = TypeVar("_T")


def open_s3(
    uri: str,
    environment: Mapping[str, str] | None = None,
    retry: RetryPolicy | None = None,
) -> S3Store:
    """The store under ``s3://bucket/prefix``. Touches nothing: :meth:`S3Store.probe` does.

    environment   default: the process's own; see ``s3_settings`` for what is read from it.

    Raises OutputError for a text that is no ``s3://`` URI, or credentials that cannot be read.
    """
    variables = os.environ if environment is None else environment
    location = parse_s3(uri)
    if location is None or not location.bucket:
        raise OutputError(f"{uri}: expected s3://bucket/prefix")
    return S3Store(location, read_settings(variables), retry or read_retry_policy(variables))


class S3Store:
    """An :class:`~pipemax_worker.dataset.object_store.ObjectStore` under a prefix of a bucket.

    Safe to call from several threads; signal handlers run while a request hangs. Every verb tries
    again, within ``retry``, while the server answers 5xx, refuses connections, cuts them or is
    silent; then it raises OutputError.
    """

    def __init__(
        self,
        location: S3Location,
        settings: S3Settings,
        retry: RetryPolicy,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.location = location
        self._server = settings.server
        self._prefix = f"{location.key}/" if location.key else ""
        self._retry = retry
        self._clock = clock or MonotonicClock()
        self._sleep = sleep
        self._bucket = open_bucket(location, settings)

    @property
    def place(self) -> str:
        return str(self.location)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        writer, backoff, is_in_doubt = uuid.uuid4().hex, self._backoff(), False
        while True:
            failure = self._try_create(key, data, writer)
            if failure is None:
                return True
            if failure.kind is FailureKind.EXISTS:
                if not is_in_doubt:
                    return False
                if (found := self._writer_of(key, backoff)) is not None:
                    return found == writer
            elif not failure.is_temporary:
                raise self._error("create", key, failure, backoff)
            is_in_doubt = True
            if not backoff.wait():
                raise self._error("create", key, failure, backoff)

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        self._call("write", key, lambda: obstore.put(self._bucket, path, data, use_multipart=False))

    def get(self, key: str) -> bytes:
        path = self._path(key)
        return self._call("read", key, lambda: bytes(obstore.get(self._bucket, path).bytes()))

    def get_range(self, key: str, start: int, end: int, etag: str = "") -> bytes:
        """Bytes ``[start, end)``, cut at the object's end; ``start`` must lie before it.

        Raises ObjectChangedError if the object has another ``etag`` (not looked at if empty),
        ObjectNotFoundError.
        """
        path, options = self._path(key), _range_options(start, end, etag)

        def read() -> tuple[str | None, bytes]:
            result = obstore.get(self._bucket, path, options=options)
            return result.meta["e_tag"], bytes(result.bytes())

        found, data = self._call("read", key, read)
        if etag and found != etag:  # a server that does not know If-Match
            raise ObjectChangedError(f"{self._name(key)}: its ETag was {etag} and is {found}")
        return data

    def head(self, key: str) -> ObjectInfo:
        """Size and ETag. Raises ObjectNotFoundError."""
        path = self._path(key)
        meta = self._call("look up", key, lambda: obstore.head(self._bucket, path))
        return ObjectInfo(key, meta["size"], meta["e_tag"] or "")

    def size(self, key: str) -> int:
        """In bytes. Raises ObjectNotFoundError."""
        return self.head(key).size_bytes

    def etag(self, key: str) -> str:
        """Changes with the object's content; quotes belong to it. Raises ObjectNotFoundError."""
        return self.head(key).etag

    def exists(self, key: str) -> bool:
        try:
            self.head(key)
        except ObjectNotFoundError:
            return False
        return True

    def list_objects(self, prefix: str) -> tuple[ObjectInfo, ...]:
        """As :meth:`list`, with sizes and ETags."""
        found = self._call("list", prefix, lambda: tuple(self._listed(prefix)))
        return tuple(sorted(found, key=lambda info: info.key))

    def list(self, prefix: str) -> list[str]:
        return [info.key for info in self.list_objects(prefix)]

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            self._call("delete", key, lambda: obstore.delete(self._bucket, path))
        except ObjectNotFoundError:
            return

    def probe(self) -> None:
        """Write, prove that conditional writes are real (``s3_probe``), read, list and delete.

        Raises OutputError, which names the missing permission or the missing feature.
        """
        prove_conditional_writes(self, self._server)

    def _try_create(self, key: str, data: bytes, writer: str) -> Failure | None:
        """One conditional write; None if it has created the key."""
        path, attributes = self._path(key), {WRITER_ATTRIBUTE: writer}
        try:
            run_interruptibly(
                lambda: obstore.put(self._bucket, path, data, mode="create", attributes=attributes)
            )
        except REQUEST_ERRORS as error:
            failure = classify_failure(error)
            if failure.kind is FailureKind.NOT_FOUND:  # of a write: the bucket's 404
                return msgspec.structs.replace(failure, kind=FailureKind.NO_BUCKET)
            return failure
        return None

    def _writer_of(self, key: str, backoff: Backoff) -> str | None:
        """Whose word the key carries, "" if nobody's; None if there is no such key."""
        path = self._path(key)

        def look_up() -> Attributes:
            return obstore.get(self._bucket, path, options={"head": True}).attributes

        try:
            return self._call("look up", key, look_up, backoff).get(WRITER_ATTRIBUTE, "")
        except ObjectNotFoundError:
            return None

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """obstore lists whole folders: of one with a million keys only the pages that may hold the
        wanted ones are asked for."""
        wanted = self._prefix + prefix
        folder = wanted.rpartition("/")[0]
        offset = _just_before(wanted) if not wanted.endswith("/") else None
        for chunk in obstore.list(self._bucket, folder or None, offset=offset, chunk_size=1000):
            for meta in chunk:
                path = meta["path"]
                if path.startswith(wanted):
                    key = path.removeprefix(self._prefix)
                    yield ObjectInfo(key, meta["size"], meta["e_tag"] or "")
            if chunk and offset is not None and chunk[-1]["path"][: len(wanted)] > wanted:
                return

    def _call(
        self, verb: str, key: str, request: Callable[[], _T], backoff: Backoff | None = None
    ) -> _T:
        """Try until the server answers or the time is used up. Raises OutputError."""
        backoff = backoff or self._backoff()
        while True:
            try:
                return run_interruptibly(request)
            except REQUEST_ERRORS as error:
                failure = classify_failure(error)
                if not failure.is_temporary or not backoff.wait():
                    raise self._error(verb, key, failure, backoff) from error

    def _error(self, verb: str, key: str, failure: Failure, backoff: Backoff) -> OutputError:
        name = self._name(key)
        if failure.kind is FailureKind.NOT_FOUND:
            return ObjectNotFoundError(f"{name}: not found")
        if failure.kind is FailureKind.CHANGED:
            return ObjectChangedError(f"{name}: {failure}")
        what = f"could not {verb} {name} at {self._server}"
        return build_request_error(what, failure, backoff.num_tries, backoff.elapsed_seconds)

    def _backoff(self) -> Backoff:
        return Backoff(self._retry, self._clock, self._sleep)

    def _path(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):
            raise OutputError(f"{self.place}: {key!r} is no key: it leads out of the prefix")
        return self._prefix + key

    def _name(self, key: str) -> str:
        return f"s3://{self.location.bucket}/{self._prefix}{key}"


def _just_before(wanted: str) -> str | None:
    """A text behind which, in S3's order, lies everything that starts with ``wanted``."""
    return f"{wanted[:-1]}{chr(ord(wanted[-1]) - 1)}~" if wanted else None


def _range_options(start: int, end: int, etag: str) -> GetOptions:
    return {"range": (start, end), "if_match": etag} if etag else {"range": (start, end)}
