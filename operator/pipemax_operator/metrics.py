"""What the operator exports to Prometheus (names: base units, bounded labels)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from pipemax_operator.api_server import ConflictError, NotLeadingError
from pipemax_operator.conditions import parse_time
from pipemax_operator.crd_status import PHASES
from pipemax_operator.sweep_metrics import SweepMetrics

Document = dict[str, Any]
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
        self._eta = Gauge(
            "pipemax_job_eta_timestamp_seconds",
            "When a running job will be done at its present rate.",
            ["namespace", "job"],
            registry=self.registry,
        )
        # Times of a job: a name, what it says.
        self._times = {
            name: Gauge(f"pipemax_job_{name}", text, ["namespace", "job"], registry=self.registry)
            for name, text in (
                ("deadline_timestamp_seconds", "When the deadline of a running job ends it."),
                ("queue_wait_seconds", "How long a job waited, or has waited, for its first pod."),
                ("deletion_timestamp_seconds", "When the deletion of a job was asked for."),
                ("attempts", "How many times pods were started for a job."),
            )
        }
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
            "When the last event of a resource came from the API server.",
            ["resource"],
            registry=self.registry,
        )
        self._calls = Counter(
            "pipemax_api_requests",
            "Requests to the API server by verb as RBAC has it, resource and HTTP status; 0 for no "
            "answer. Watches are kopf's and not among them.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._missed = Counter(
            "pipemax_watch_missed_objects",
            "Objects of which an audit had to tell: newer, or gone, and no watch had said so.",
            registry=self.registry,
        )
        self.sweeps = SweepMetrics(self.registry)
        ProcessCollector(registry=self.registry)

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
            Gauge(name, text, registry=self.registry).set_function(read)

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

        self._show_eta(namespace, job, progress.get("estimatedCompletionTime"), phase)

    def _show_eta(self, namespace: str, job: str, eta: object, phase: str) -> None:
        if isinstance(eta, str) and phase == "Running":
            self._set_or_remove(self._eta, namespace, job, _seconds(eta))
        else:
            self._set_or_remove(self._eta, namespace, job, None)

    def show_times(self, document: Document, deadline_seconds: int | None, now: datetime) -> None:
        """A job's times, of the API server's document with its present status. ``attempts`` is
        there from the first on."""
        metadata, status = document["metadata"], document.get("status") or {}
        start, created = status.get("startTime"), metadata.get("creationTimestamp")
        is_running = status.get("phase") == "Running"
        values: dict[str, float | None] = dict.fromkeys(self._times)
        if start and is_running and deadline_seconds is not None:
            values["deadline_timestamp_seconds"] = _seconds(start) + deadline_seconds
        if created and (start or status.get("phase") in ("Pending", "Suspended")):
            until = _seconds(start) if start else now.timestamp()
            values["queue_wait_seconds"] = max(0.0, until - _seconds(created))
        if deletion := metadata.get("deletionTimestamp"):
            grace_seconds = metadata.get("deletionGracePeriodSeconds") or 0
            values["deletion_timestamp_seconds"] = _seconds(deletion) - grace_seconds
        values["attempts"] = status.get("attempt")
        for name, value in values.items():
            self._set_or_remove(self._times[name], metadata["namespace"], metadata["name"], value)

    @staticmethod
    def _set_or_remove(gauge: Gauge, namespace: str, job: str, value: float | None) -> None:
        if value is not None:
            gauge.labels(namespace, job).set(value)
            return
        with suppress(KeyError):
            gauge.remove(namespace, job)

    def forget(self, namespace: str, job: str) -> None:
        """The job is gone: its series end."""
        self._leave_phase((namespace, job))
        self._phases.pop((namespace, job), None)
        for gauge in (self._progress, self._eta, *self._times.values()):
            self._set_or_remove(gauge, namespace, job, None)
        for state in ("total", "completed", "failed"):
            with suppress(KeyError):
                self._requests.remove(namespace, job, state)

    def forget_all(self) -> None:
        """Another operator speaks for the jobs now: two that do would be summed up."""
        for namespace, job in list(self._phases):
            self.forget(namespace, job)

    def _leave_phase(self, key: Key) -> None:
        if (before := self._phases.get(key)) is not None:
            self._jobs.labels(before, key[0]).dec()


def _seconds(time_text: str) -> float:
    return parse_time(time_text).timestamp()
