"""``manifest.json``: what a finished job read and wrote, to check and to cite.

It is there while the job is finished: a retry removes it, and its end writes it anew. Nobody reads
it to decide anything, but that it is there already; so a worker that was frozen over a retry and
writes an old one does no harm, and puts it right itself as soon as it goes on.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import msgspec

from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.chain import SegmentInfo
from pipemax_worker.dataset.documents import encode_document
from pipemax_worker.dataset.done_ranges import read_newest_retry
from pipemax_worker.dataset.earlier_results import read_sources
from pipemax_worker.dataset.energy_ledger import read_energy
from pipemax_worker.dataset.ledger import InputIdentity, Ledger
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import InvariantError

MANIFEST_KEY = "manifest.json"
MANIFEST_VERSION = 2


class Manifest(msgspec.Struct, frozen=True):
    """``digests``: SHA-256 of the inputs' identities and of each part of the fingerprint.

    failed_codes    error code -> records that carry it, the most frequent first.
    num_retries     of the whole location.
    resumed_from    places whose records were taken over, ``num_copied`` of them.
    energy          that all runs of the job took of GPUs, as far as they had told; None on CPUs.
    """

    version: int
    created_at: str
    finished_at: str
    counts: RecordCounts
    failed_codes: dict[str, int]
    num_retries: int
    resumed_from: tuple[str, ...]
    num_copied: int
    digests: dict[str, str]
    inputs: tuple[InputIdentity, ...]
    segments: tuple[SegmentInfo, ...]
    energy: EnergyTotals | None = None


def write_manifest(store: ObjectStore, ledger: Ledger) -> Manifest:
    """Write the manifest of a finished job, or return the one that another worker wrote.

    Counts and hashes come from the done ranges: no record is read again. Raises InvariantError if
    a range is not done, OutputError.
    """
    found = read_manifest(store)
    if found is not None and found.num_retries == ledger.retry:
        return found
    manifest = _build_manifest(store, ledger)
    if _newest_retry(store) == ledger.retry:
        store.put(MANIFEST_KEY, encode_document(manifest))
    if _newest_retry(store) != ledger.retry:
        _put_right(store)
    return manifest


def read_manifest(store: ObjectStore) -> Manifest | None:
    """The manifest; None if the job has not finished, or only by another version's lights."""
    try:
        return msgspec.json.decode(store.get(MANIFEST_KEY), type=Manifest)
    except (ObjectNotFoundError, msgspec.DecodeError):
        return None


def withdraw_manifest(store: ObjectStore) -> None:
    """A retry begins: the job is not finished any more."""
    store.delete(MANIFEST_KEY)


def _build_manifest(store: ObjectStore, ledger: Ledger) -> Manifest:
    counts, codes, num_copied = RecordCounts(), Counter[str](), 0
    segments: list[SegmentInfo] = []
    num_done = 0
    for summary in ledger.summaries():
        counts += summary.counts
        codes.update(summary.failed_codes)
        num_copied += summary.num_copied
        segments.extend(summary.segments)
        num_done += 1
    if num_done != len(ledger.ranges):
        raise InvariantError(f"{num_done} of {len(ledger.ranges)} ranges are done: no manifest yet")
    return Manifest(
        version=MANIFEST_VERSION,
        created_at=ledger.job.created_at,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        counts=counts,
        failed_codes=dict(codes.most_common()),
        num_retries=ledger.retry,
        resumed_from=read_sources(store),
        num_copied=num_copied,
        digests=ledger.job.digests,
        inputs=ledger.job.inputs,
        segments=tuple(segments),
        energy=read_energy(store) or None,
    )


def _put_right(store: ObjectStore) -> None:
    """A newer retry has begun since this worker looked: the manifest is that one's, or not due."""
    newest = Ledger.load(store)
    if newest.is_finished:
        store.put(MANIFEST_KEY, encode_document(_build_manifest(store, newest)))
    else:
        withdraw_manifest(store)


def _newest_retry(store: ObjectStore) -> int:
    newest = read_newest_retry(store)
    return newest.number if newest else 0
