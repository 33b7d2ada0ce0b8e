"""What the watches have told, kept as it was: the API server is not asked what it has just said.

Fed by kopf's events, by the answers to our own writes, and by the audit's lists; whoever comes
with an older version of an object than is known changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from pipemax_operator import names

Document = dict[str, Any]

_DELETED_KEPT = 10_000

# Most of a pod's bytes, and nobody asks for them.
_UNREAD_OF_PODS = ("containers", "initContainers", "volumes", "imagePullSecrets")


class ObjectKey(NamedTuple):
    """``kind``: as in its document."""

    kind: str
    namespace: str
    name: str


class _Entry(NamedTuple):
    uid: str
    version: int
    job: str
    encoded: bytes


class ObjectCache:
    """InferenceJobs, and of their children the batch Jobs and pods. Not thread-safe.

    Documents are kept as JSON: a thousand jobs take megabytes, and nobody can change one in here.
    """

    def __init__(self, kinds: Iterable[str] = (names.KIND, "Job", "Pod")) -> None:
        self._entries: dict[str, dict[ObjectKey, _Entry]] = {kind: {} for kind in kinds}
        self._pods_of_job: dict[tuple[str, str], set[ObjectKey]] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def store(self, document: Document) -> bool:
        """Keep ``document``; False if this or a newer version is known, or the object is gone.
        One of another kind is none of ours."""
        metadata = document["metadata"]
        key = key_of(document)
        entries = self._entries.get(key.kind)
        if entries is None or metadata["uid"] in self._deleted:
            return False
        version = int(metadata["resourceVersion"])
        known = entries.get(key)
        if known is not None and known.version >= version:
            return False
        job = job_of(document)
        entries[key] = _Entry(metadata["uid"], version, job, _encode(document))
        if key.kind == "Pod":
            if known is not None:
                self._leave_job(key, known.job)
            self._pods_of_job.setdefault((key.namespace, job), set()).add(key)
        return True

    def remove(self, document: Document) -> bool:
        """The object is gone for good; its name may come again under another uid."""
        return self.forget(key_of(document), document["metadata"]["uid"])

    def forget(self, key: ObjectKey, uid: str) -> bool:
        """As ``remove``, for who has no document. False if it was not known."""
        self._deleted[uid] = None
        if len(self._deleted) > _DELETED_KEPT:
            self._deleted.popitem(last=False)
        known = self._entries.get(key.kind, {}).get(key)
        if known is None or known.uid != uid:
            return False
        del self._entries[key.kind][key]
        if key.kind == "Pod":
            self._leave_job(key, known.job)
        return True

    def _leave_job(self, key: ObjectKey, job: str) -> None:
        pods = self._pods_of_job[(key.namespace, job)]
        pods.discard(key)
        if not pods:
            del self._pods_of_job[(key.namespace, job)]

    def get(self, kind: str, namespace: str, name: str) -> Document | None:
        key = ObjectKey(kind, namespace, name)
        found = self._entries[kind].get(key)
        return None if found is None else _decode(found.encoded)

    def pods_of(self, namespace: str, job: str) -> list[Document]:
        """Of the InferenceJob named ``job``, by label."""
        keys = self._pods_of_job.get((namespace, job), ())
        return [_decode(self._entries["Pod"][key].encoded) for key in sorted(keys)]

    def versions(self, kind: str) -> Mapping[ObjectKey, tuple[str, int]]:
        """Key -> uid and resource version of every object of ``kind``."""
        return {key: (entry.uid, entry.version) for key, entry in self._entries[kind].items()}

    def job_named_by(self, key: ObjectKey) -> str:
        """The InferenceJob that ``key`` belongs to; empty if it is not known."""
        found = self._entries[key.kind].get(key)
        return "" if found is None else found.job

    def jobs(self) -> list[tuple[str, str]]:
        """Namespace and name of every InferenceJob."""
        return [(key.namespace, key.name) for key in self._entries[names.KIND]]

    def count(self, kind: str) -> int:
        return len(self._entries[kind])


def key_of(document: Document) -> ObjectKey:
    metadata = document["metadata"]
    return ObjectKey(document["kind"], metadata.get("namespace", ""), metadata["name"])


def job_of(document: Document) -> str:
    """The name of the InferenceJob that a document is, or belongs to; empty if to none."""
    if document["kind"] == names.KIND:
        return str(document["metadata"]["name"])
    return str((document["metadata"].get("labels") or {}).get(names.JOB_LABEL, ""))


def _encode(document: Document) -> bytes:
    metadata = {k: v for k, v in document["metadata"].items() if k != "managedFields"}
    kept = {**document, "metadata": metadata}
    if document["kind"] == "Pod" and "spec" in document:
        spec = document["spec"]
        kept["spec"] = {k: v for k, v in spec.items() if k not in _UNREAD_OF_PODS}
    return msgspec.json.encode(kept)


def _decode(encoded: bytes) -> Document:
    document: Document = msgspec.json.decode(encoded)
    return document
