"""What the operator exports to Prometheus (names: base units, bounded labels)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipemax_operator.crd_status import PHASES

Key = tuple[str, str]


class OperatorMetrics:
    """One registry; written by the reconciler alone. ``forget`` a job that is gone."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._phases: dict[Key, str] = {}
        self._jobs = Gauge(
            "pipemax_jobs",
            "InferenceJobs by phase.",
            ["phase", "namespace"],
            registry=self.registry,
        )
        self._requests = Gauge(
            "pipemax_job_requests",
            "Requests of a job.",
            ["namespace", "job", "state"],
            registry=self.registry,
        )
        self._progress = Gauge(
            "pipemax_job_progress_ratio",
            "Share of a job's requests that have a record.",
            ["namespace", "job"],
            registry=self.registry,
        )
        self._reconciles = Counter(
            "pipemax_reconcile", "Reconciliations that were carried out.", registry=self.registry
        )
        self._errors = Counter(
            "pipemax_reconcile_errors", "Reconciliations that failed.", registry=self.registry
        )
        self._duration = Histogram(
            "pipemax_reconcile_duration_seconds",
            "Time that one reconciliation took.",
            registry=self.registry,
        )
        self._last_event = Gauge(
            "pipemax_watch_last_event_timestamp_seconds",
            "When the last event came from the API server.",
            registry=self.registry,
        )

    def note_event(self) -> None:
        """An event has come."""
        self._last_event.set(time.time())

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Count and time what is done inside."""
        start = time.perf_counter()
        try:
            yield
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
        for state, field in (
            ("total", "totalRequests"),
            ("completed", "completed"),
            ("failed", "failed"),
        ):
            value = progress.get(field)
            if isinstance(value, int):
                self._requests.labels(namespace, job, state).set(value)
        total, done, failed = (
            progress.get(name) for name in ("totalRequests", "completed", "failed")
        )
        if isinstance(total, int) and isinstance(done, int) and isinstance(failed, int) and total:
            self._progress.labels(namespace, job).set(min(1.0, (done + failed) / total))

    def forget(self, namespace: str, job: str) -> None:
        """The job is gone: its series end."""
        self._leave_phase((namespace, job))
        self._phases.pop((namespace, job), None)
        for gauge, labels in (
            (self._progress, [(namespace, job)]),
            (self._requests, [(namespace, job, s) for s in ("total", "completed", "failed")]),
        ):
            for values in labels:
                try:
                    gauge.remove(*values)
                except KeyError:
                    continue

    def _leave_phase(self, key: Key) -> None:
        if (before := self._phases.get(key)) is not None:
            self._jobs.labels(before, key[0]).dec()
