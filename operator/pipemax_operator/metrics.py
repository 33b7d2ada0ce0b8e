"""What the operator exports to Prometheus (names: base units, bounded labels)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pipemax_operator.api_server import ConflictError, NotLeadingError
from pipemax_operator.conditions import parse_time
from pipemax_operator.crd_status import PHASES
from pipemax_operator.job_series import JobSeries
from pipemax_operator.sweep_metrics import SweepMetrics

Document = dict[str, Any]
Key = tuple[str, str]

_TIMES = {
    "deadline_timestamp_seconds": "When the deadline of a running job ends it.",
    "queue_wait_seconds": "How long a job waited, or has waited, for its first pod.",
    "deletion_timestamp_seconds": "When the deletion of a job was asked for.",
    "attempts": "How many times pods were started for a job.",
}
"""Of a job: a name, what it says."""

_JOB_SERIES: dict[str, tuple[str, Sequence[str]]] = {
    "job_requests": ("Requests of a job.", ["state"]),
    "job_progress_ratio": ("Share of a job's requests that have a record.", []),
    "job_eta_timestamp_seconds": (
        "When a running job will be done at its present rate.",
        [],
    ),
    "job_energy_joules": ("Energy that all runs of a job have taken of GPUs.", []),
    "job_gpu_seconds": ("Time for which a job has held GPUs, busy or not, in all its runs.", []),
    **{f"job_{name}": (text, []) for name, text in _TIMES.items()},
}


class _All(Collector):
    """Several collectors as one."""

    def __init__(self, parts: Sequence[CollectorRegistry | Collector]) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        return itertools.chain.from_iterable(part.collect() for part in self._parts)


class OperatorMetrics:
    """Written by the reconciler alone. ``forget`` a job that is gone.

    registry    everything, for whoever wants to read single values; a scrape is ``exposition``.
    """

    def __init__(self) -> None:
        self._own = CollectorRegistry()
        self._series = JobSeries(_JOB_SERIES)
        self.registry = CollectorRegistry()
        self.registry.register(_All((self._own, self._series)))
        self._phases: dict[Key, str] = {}
        self._jobs = Gauge(
            "pipemax_jobs",
            "InferenceJobs by phase.",
            ["phase", "namespace"],
            registry=self._own,
        )
        self._reconciles = Counter(
            "pipemax_reconcile", "Reconciliations that were carried out.", registry=self._own
        )
        self._errors = Counter(
            "pipemax_reconcile_errors", "Reconciliations that failed.", registry=self._own
        )
        self._duration = Histogram(
            "pipemax_reconcile_duration_seconds",
            "Time that one reconciliation took.",
            registry=self._own,
        )
        self._last_event = Gauge(
            "pipemax_watch_last_event_timestamp_seconds",
            "When the last event of a resource came from the API server.",
            ["resource"],
            registry=self._own,
        )
        self._calls = Counter(
            "pipemax_api_requests",
            "Requests to the API server by verb as RBAC has it, resource and HTTP status; 0 for no "
            "answer. Watches are kopf's and not among them.",
            ["verb", "resource", "code"],
            registry=self._own,
        )
        self._missed = Counter(
            "pipemax_watch_missed_objects",
            "Objects of which an audit had to tell: newer, or gone, and no watch had said so.",
            registry=self._own,
        )
        self.sweeps = SweepMetrics(self._own)
        ProcessCollector(registry=self._own)

    def note_event(self, resource: str) -> None:
        """An event has come."""
        self._last_event.labels(resource).set(time.time())

    def note_call(self, verb: str, resource: str, code: int) -> None:
        """A request to the API server has ended."""
        self._calls.labels(verb, resource, str(code)).inc()

    def note_missed(self, num_objects: int) -> None:
        """An audit has found what no watch had told."""
        self._missed.inc(num_objects)

    def follow(self, is_leading: Callable[[], float], queue_length: Callable[[], float]) -> None:
        """Gauges that are read when they are asked for."""
        for name, text, read in (
            ("pipemax_operator_leading", "1 if this operator acts.", is_leading),
            ("pipemax_reconcile_queue_length", "Jobs that are due and have to wait.", queue_length),
        ):
            Gauge(name, text, registry=self._own).set_function(read)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format; of jobs, what has not changed is not made anew."""
        return generate_latest(self._own) + self._series.exposition()

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Count and time what is done inside. A conflict is no error: somebody was quicker."""
        start = time.perf_counter()
        try:
            yield
        except (ConflictError, NotLeadingError):
            raise
        except Exception:
            self._errors.inc()
            raise
        finally:
            self._reconciles.inc()
            self._duration.observe(time.perf_counter() - start)

    def show(self, namespace: str, job: str, phase: str, progress: dict[str, object]) -> None:
        """A job as its status has it."""
        key = (namespace, job)
        if self._phases.get(key) != phase:
            self._leave_phase(key)
            if phase in PHASES:
                self._phases[key] = phase
                self._jobs.labels(phase, namespace).inc()
        total, done, failed = counts = [
            value if isinstance(value := progress.get(field), int) else None
            for field in ("totalRequests", "completed", "failed")
        ]
        for state, count in zip(("total", "completed", "failed"), counts, strict=True):
            if count is not None:
                self._series.set("job_requests", key, count, state)
        if total and done is not None and failed is not None:
            self._series.set("job_progress_ratio", key, min(1.0, (done + failed) / total))
        eta = progress.get("estimatedCompletionTime")
        is_known = isinstance(eta, str) and phase == "Running"
        self._series.set("job_eta_timestamp_seconds", key, _seconds(str(eta)) if is_known else None)

    def show_energy(self, namespace: str, job: str, energy: Document) -> None:
        """``status.energy`` of a job; empty on CPUs."""
        hours = energy.get("gpuHours")
        self._series.set("job_energy_joules", (namespace, job), energy.get("joules"))
        self._series.set(
            "job_gpu_seconds", (namespace, job), None if hours is None else 3600 * hours
        )

    def show_times(self, document: Document, deadline: datetime | None, now: datetime) -> None:
        """A job's times, of the API server's document with its present status. ``deadline``: when
        its child Job is ended. ``attempts`` is there from the first on."""
        metadata, status = document["metadata"], document.get("status") or {}
        start, created = status.get("startTime"), metadata.get("creationTimestamp")
        values: dict[str, float | None] = dict.fromkeys(_TIMES)
        if deadline is not None and status.get("phase") == "Running":
            values["deadline_timestamp_seconds"] = deadline.timestamp()
        if created and (start or status.get("phase") in ("Pending", "Suspended")):
            until = _seconds(start) if start else now.timestamp()
            values["queue_wait_seconds"] = max(0.0, until - _seconds(created))
        if deletion := metadata.get("deletionTimestamp"):
            grace_seconds = metadata.get("deletionGracePeriodSeconds") or 0
            values["deletion_timestamp_seconds"] = _seconds(deletion) - grace_seconds
        values["attempts"] = status.get("attempt")
        for name, value in values.items():
            self._series.set(f"job_{name}", (metadata["namespace"], metadata["name"]), value)

    def forget(self, namespace: str, job: str) -> None:
        """The job is gone: its series end."""
        self._leave_phase((namespace, job))
        self._phases.pop((namespace, job), None)
        self._series.forget((namespace, job))

    def forget_all(self) -> None:
        """Another operator speaks for the jobs now: two that do would be summed up."""
        for namespace, job in list(self._phases):
            self.forget(namespace, job)

    def _leave_phase(self, key: Key) -> None:
        if (before := self._phases.get(key)) is not None:
            self._jobs.labels(before, key[0]).dec()


def _seconds(time_text: str) -> float:
    return parse_time(time_text).timestamp()
