"""Which sweeps are to be made, and what one has found. Pure: values in, values out.

A sweep is a short-lived Job on one node that removes the folders of jobs that have ended. It is
given UIDs that the API server has said to be over, never those that live: what a sweep that has
waited a week for its node removes is as dead as when it was ordered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pipemax_operator.nvme_records import NvmeRecord

MAX_UIDS = 50
"""A sweep's report must fit into a termination message."""

MAX_SWEEPS = 200
"""At once, those that wait for a lost node among them."""

FORGET_AFTER = timedelta(days=30)
"""A node that has not come back for so long is taken for scrapped."""


class Disk(NamedTuple):
    """A folder of NVMe tiers on one node."""

    node: str
    root: str


@dataclass(frozen=True)
class Sweep:
    """``uids``: of jobs that have ended; none: only look what is there."""

    disk: Disk
    uids: tuple[str, ...] = ()


class FoundFolder(NamedTuple):
    """A job's folder that a sweep saw and was not told to remove."""

    uid: str
    namespace: str
    name: str


@dataclass(frozen=True)
class SweepReport:
    """What a sweep says at its end (``pipemax host-folders sweep``)."""

    removed: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    left: tuple[FoundFolder, ...] = ()


@dataclass(frozen=True)
class ObservedSweep:
    """A sweep's Job. ``is_held``: it is suspended, which is none of our doing."""

    name: str
    sweep: Sweep
    is_over: bool = False
    is_held: bool = False


def parse_report(text: str) -> SweepReport | None:
    """None for anything but a report."""
    try:
        said: dict[str, Any] = json.loads(text)
        return SweepReport(
            removed=tuple(said.get("removed", ())),
            busy=tuple(said.get("busy", ())),
            failed=tuple(said.get("failed", {}).items()),
            left=tuple(FoundFolder(**one) for one in said.get("left", ())),
        )
    except (AttributeError, TypeError, ValueError):
        return None


def read_reports(pods: Iterable[dict[str, Any]]) -> dict[str, SweepReport]:
    """What sweeps' pods have said at a good end, by the names of the sweeps' Jobs."""
    reports: dict[str, SweepReport] = {}
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            report = parse_report(ended.get("message") or "")
            if report is not None and ended.get("exitCode") == 0:
                owners = pod["metadata"].get("ownerReferences") or ()
                reports |= {owner["name"]: report for owner in owners}
    return reports


def waiting_disks(records: Iterable[NvmeRecord]) -> dict[Disk, list[str]]:
    """UIDs of ended jobs that are to be removed, by the disks that hold their folders."""
    waiting: dict[Disk, list[str]] = {}
    for record in records:
        if record.ended_at is not None:
            for node in record.nodes:
                waiting.setdefault(Disk(node, record.root), []).append(record.uid)
    return waiting


def count_waiting(records: Iterable[NvmeRecord]) -> int:
    """Folders that are to be removed."""
    return sum(map(len, waiting_disks(records).values()))


def plan_sweeps(
    records: Iterable[NvmeRecord],
    under_way: Collection[Disk],
    to_look_at: Collection[Disk],
    is_due: Callable[[Disk], bool] = lambda disk: True,
) -> tuple[Sweep, ...]:
    """One sweep a disk at a time: those with folders of ended jobs, then those to be looked at."""
    dead = waiting_disks(records)
    wanted = [Sweep(disk, tuple(uids[:MAX_UIDS])) for disk, uids in dead.items()]
    wanted += [Sweep(disk) for disk in sorted(to_look_at) if disk not in dead]
    due = [sweep for sweep in wanted if sweep.disk not in under_way and is_due(sweep.disk)]
    return tuple(due[: max(0, MAX_SWEEPS - len(under_way))])


def is_forgettable(record: NvmeRecord, now: datetime) -> bool:
    """Nothing of it is left on any node that is known, or its nodes are not coming back."""
    if record.ended_at is None:
        return False
    return not record.nodes or now - record.ended_at > FORGET_AFTER
