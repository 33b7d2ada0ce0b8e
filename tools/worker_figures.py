"""What the worker processes of ``many_workers`` told, added up."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.records import read_records

CLAIM_FOLDERS = ("ledger/claims", "ledger/done", "ledger/retries", "ledger/workers")


@dataclass
class Process:
    """``killed`` and ``frozen`` are moments; the latter of two is when it is woken."""

    pid: int
    name: str
    report: Path
    killed: float | None = None
    frozen: tuple[float, float] | None = None

    @property
    def is_disturbed(self) -> bool:
        return self.killed is not None or self.frozen is not None


@dataclass(frozen=True)
class Figures:
    cost_ratio: float
    spread_ratio: float
    spread_with_woken_ratio: float
    seconds: float
    num_computed: int
    num_calls: int
    call_seconds: float
    num_woken: int
    seconds_by_folder: dict[str, float]
    calls_by_folder: dict[str, int]


def measure(processes: list[Process], start: float) -> Figures:
    """Times are of the workers that nobody disturbed; finishing together is also asked of those
    that were woken before the job ended."""
    told = {p.name: json.loads(p.report.read_text()) for p in processes if p.report.exists()}
    calm = [told[p.name] for p in processes if not p.is_disturbed]
    seconds = max(one["last_work"] for one in calm) - start
    woken = [
        told[p.name]
        for p in processes
        if p.frozen is not None and p.frozen[1] < start + 0.9 * seconds and p.name in told
    ]
    claims = sum(one["store_seconds"].get(f, 0.0) for one in calm for f in CLAIM_FOLDERS)
    return Figures(
        cost_ratio=claims / sum(one["last_work"] - start for one in calm),
        spread_ratio=_spread(calm, start),
        spread_with_woken_ratio=_spread([*calm, *woken], start),
        seconds=seconds,
        num_computed=sum(one["num_computed"] for one in told.values()),
        num_calls=sum(sum(one["store_calls"].values()) for one in calm),
        call_seconds=sum(sum(one["store_seconds"].values()) for one in calm),
        num_woken=len(woken),
        seconds_by_folder=_sums(one["store_seconds"] for one in calm),
        calls_by_folder=_sums(one["store_calls"] for one in calm),
    )


def _sums(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    total: defaultdict[str, Any] = defaultdict(int)
    for one in counts:
        for name, count in one.items():
            total[name] += count
    return dict(total)


def _spread(told: Iterable[dict[str, Any]], start: float) -> float:
    ends = [one["last_work"] - start for one in told]
    return (max(ends) - min(ends)) / max(ends)


def count_kept(store: ObjectStore, processes: list[Process]) -> int:
    """Records of the workers that were not killed."""
    names = {p.name for p in processes if p.report.exists()}
    keys = store.list(RESULTS_PREFIX)
    heads = (head for key in keys for head, _ in read_records(key, store.get(key)))
    return sum(head.pipemax.worker in names for head in heads)


def by_folder(f: Figures) -> str:
    return ", ".join(
        f"{folder} {count} ({1000 * f.seconds_by_folder[folder] / count:.0f} ms)"
        for folder, count in sorted(f.calls_by_folder.items())
    )
