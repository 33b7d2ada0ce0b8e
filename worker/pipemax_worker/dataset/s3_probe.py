"""Proves on the server itself that its conditional writes are real, before a job trusts them.

A server that does not know ``If-None-Match`` takes the header for noise and overwrites: the second
write of a key finds that. One that looks first and writes then lets two writers win at times: a
burst of concurrent writers finds most of those, no test finds all.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.errors import OutputError

PROBE_PREFIX = ".probe/"
_NUM_WRITERS = 8


def prove_conditional_writes(store: ObjectStore, server: str) -> None:
    """Create a key, fail to create it again, let several create another; read, list, delete.

    Raises OutputError if the store cannot be used, or if its conditional writes are not real; what
    the probe wrote may be left there then.
    """
    name = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
    once, contended = f"{name}-once", f"{name}-contended"
    created = store.put_if_absent(once, b"first")
    if not created or store.put_if_absent(once, b"second") or store.get(once) != b"first":
        raise _missing_feature(store, server, "a second conditional write replaced the first")
    _let_writers_contend(store, server, contended)
    if store.list(name) != [contended, once]:
        raise OutputError(
            f"{store.place}: {server} does not list what was just written; PipeMax needs a store "
            "whose listings are strongly consistent"
        )
    store.delete(once)
    store.delete(contended)


def _let_writers_contend(store: ObjectStore, server: str, key: str) -> None:
    words = [f"writer-{number}".encode() for number in range(_NUM_WRITERS)]
    with ThreadPoolExecutor(_NUM_WRITERS) as writers:
        created = list(writers.map(lambda word: store.put_if_absent(key, word), words))
    winners = [word for word, has_won in zip(words, created, strict=True) if has_won]
    if len(winners) != 1 or store.get(key) != winners[0]:
        raise _missing_feature(
            store, server, f"{len(winners)} of {_NUM_WRITERS} concurrent conditional writes won"
        )


def _missing_feature(store: ObjectStore, server: str, what: str) -> OutputError:
    return OutputError(
        f"{store.place}: {server} has no conditional writes (PUT with If-None-Match: *): {what}, "
        "so results could be lost or doubled; use a server or a version that has them (AWS S3, "
        "MinIO, Ceph and others do), or an output on a shared file system"
    )
