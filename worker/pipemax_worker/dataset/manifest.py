"""``manifest.json``: what a finished job read and wrote, to check and to cite."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from pipemax_worker.dataset.chain import SegmentInfo
from pipemax_worker.dataset.ledger import InputIdentity, Ledger
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import InvariantError

MANIFEST_KEY = "manifest.json"
MANIFEST_VERSION = 1


class Manifest(msgspec.Struct, frozen=True):
    """``digests``: SHA-256 of the inputs' identities and of each part of the fingerprint."""

    version: int
    created_at: str
    finished_at: str
    counts: RecordCounts
    digests: dict[str, str]
    inputs: tuple[InputIdentity, ...]
    segments: tuple[SegmentInfo, ...]


def write_manifest(store: ObjectStore, ledger: Ledger) -> Manifest:
    """Write the manifest of a finished job, or return the one that another worker wrote.

    Counts and hashes come from the done ranges: no record is read again. Raises InvariantError if
    a range is not done, OutputError.
    """
    if (found := read_manifest(store)) is not None:
        return found
    counts, segments, num_done = RecordCounts(), list[SegmentInfo](), 0
    for summary in ledger.summaries():
        counts += summary.counts
        segments.extend(summary.segments)
        num_done += 1
    if num_done != len(ledger.ranges):
        raise InvariantError(f"{num_done} of {len(ledger.ranges)} ranges are done: no manifest yet")
    manifest = Manifest(
        version=MANIFEST_VERSION,
        created_at=ledger.job.created_at,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        counts=counts,
        digests=ledger.job.digests,
        inputs=ledger.job.inputs,
        segments=tuple(segments),
    )
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    if store.put_if_absent(MANIFEST_KEY, data):
        return manifest
    return read_manifest(store) or manifest


def read_manifest(store: ObjectStore) -> Manifest | None:
    """The manifest; None if the job has not finished."""
    try:
        return msgspec.json.decode(store.get(MANIFEST_KEY), type=Manifest)
    except ObjectNotFoundError:
        return None
