"""What the sweeping of nodes' disks exports to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipemax_operator.sweeps import SweepReport

RESULTS = ("removed", "busy", "kept", "failed")
"""Of a sweep that has ended: all that it was told to remove is gone; a worker still lives in some
of it; some cannot be removed, as the log says; it has ended without a report."""


class SweepMetrics:
    """Written by ``nvme_sweeper`` alone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waiting = Gauge(
            "pipemax_nvme_folders_waiting",
            "Folders of ended jobs that are to be removed from nodes' disks.",
            registry=registry,
        )
        self._held = Gauge(
            "pipemax_nvme_sweeps_held",
            "Sweeps whose Job somebody has suspended: a Kueue that manages every Job, say.",
            registry=registry,
        )
        self._ended = Counter(
            "pipemax_nvme_sweeps",
            "Sweeps of a node's disk that have ended: all removed, some busy, some kept for a "
            "reason that the log has, or failed.",
            ["result"],
            registry=registry,
        )
        for result in RESULTS:
            self._ended.labels(result)

    def show(self, num_waiting: int, num_held: int) -> None:
        self._waiting.set(num_waiting)
        self._held.set(num_held)

    def note_end(self, report: SweepReport | None) -> None:
        """A sweep has ended, with its report."""
        self._ended.labels(result_of(report)).inc()


def result_of(report: SweepReport | None) -> str:
    """One of ``RESULTS``."""
    if report is None:
        return "failed"
    if report.failed:
        return "kept"
    return "busy" if report.busy else "removed"
