"""The operator's series: what is counted, and what ends with its job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pipemax_operator.api_server import ConflictError, resource_of
from pipemax_operator.metrics import OperatorMetrics
from prometheus_client.parser import text_string_to_metric_families

JOB = {"namespace": "a", "job": "reviews"}


def value(metrics: OperatorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"pipemax_{name}", labels)


def test_a_job_and_its_end() -> None:
    metrics = OperatorMetrics()
    progress: dict[str, object] = {
        "totalRequests": 10,
        "completed": 3,
        "failed": 1,
        "estimatedCompletionTime": "2026-11-22T12:00:00Z",
    }
    metrics.show("a", "reviews", "Running", progress)
    assert value(metrics, "jobs", phase="Running", namespace="a") == 1
    assert value(metrics, "job_progress_ratio", **JOB) == 0.4
    assert value(metrics, "job_eta_timestamp_seconds", **JOB) == 1795348800
    metrics.show("a", "reviews", "Complete", {**progress, "completed": 9})
    assert value(metrics, "jobs", phase="Running", namespace="a") == 0
    assert value(metrics, "jobs", phase="Complete", namespace="a") == 1
    assert value(metrics, "job_eta_timestamp_seconds", **JOB) is None
    metrics.forget_all()
    metrics.forget("a", "reviews")
    assert value(metrics, "jobs", phase="Complete", namespace="a") == 0
    assert value(metrics, "job_progress_ratio", **JOB) is None


def document(phase: str, **metadata: object) -> dict[str, Any]:
    return {
        "metadata": {
            **{"namespace": "a", "name": "reviews", "creationTimestamp": "2026-11-22T11:00:00Z"},
            **metadata,
        },
        "status": {"phase": phase, "attempt": 2},
    }


def test_a_jobs_times() -> None:
    metrics, now = OperatorMetrics(), datetime(2026, 11, 22, 11, 10, tzinfo=UTC)
    metrics.show_times(document("Pending"), now, now)
    assert value(metrics, "job_queue_wait_seconds", **JOB) == 600
    assert value(metrics, "job_deadline_timestamp_seconds", **JOB) is None
    running = document("Running")
    running["status"]["startTime"] = "2026-11-22T11:20:00Z"
    metrics.show_times(running, datetime(2026, 11, 22, 12, tzinfo=UTC), now)
    assert value(metrics, "job_queue_wait_seconds", **JOB) == 1200
    assert value(metrics, "job_deadline_timestamp_seconds", **JOB) == 1795348800
    assert value(metrics, "job_attempts", **JOB) == 2
    assert value(metrics, "job_deletion_timestamp_seconds", **JOB) is None
    metrics.show_times(running, None, now)
    assert value(metrics, "job_deadline_timestamp_seconds", **JOB) is None


def test_a_job_in_deletion_until_it_is_gone() -> None:
    metrics, now = OperatorMetrics(), datetime(2026, 11, 22, 12, tzinfo=UTC)
    deleted = {"deletionTimestamp": "2026-11-22T12:00:30Z", "deletionGracePeriodSeconds": 30}
    metrics.show_times(document("Running", **deleted), None, now)
    assert value(metrics, "job_deletion_timestamp_seconds", **JOB) == 1795348800
    metrics.forget("a", "reviews")
    for name in ("deletion_timestamp_seconds", "attempts", "queue_wait_seconds"):
        assert value(metrics, f"job_{name}", **JOB) is None


def test_reconciliations_are_counted_and_conflicts_are_no_errors() -> None:
    metrics = OperatorMetrics()
    with metrics.reconciling():
        pass
    for error in (ConflictError, RuntimeError):
        with pytest.raises(error), metrics.reconciling():
            raise error
    assert value(metrics, "reconcile_total") == 3
    assert value(metrics, "reconcile_errors_total") == 1
    assert value(metrics, "reconcile_duration_seconds_count") == 3


def test_calls_events_and_what_is_followed() -> None:
    metrics = OperatorMetrics()
    metrics.note_event("pods")
    metrics.note_call("patch", "jobs", 200)
    metrics.note_call("patch", "jobs", 200)
    metrics.note_missed(2)
    metrics.follow(lambda: True, lambda: 7)
    assert (value(metrics, "watch_last_event_timestamp_seconds", resource="pods") or 0) > 1e9
    assert value(metrics, "api_requests_total", verb="patch", resource="jobs", code="200") == 2
    assert value(metrics, "watch_missed_objects_total") == 2
    assert value(metrics, "operator_leading") == 1
    assert value(metrics, "reconcile_queue_length") == 7
    assert (metrics.registry.get_sample_value("process_resident_memory_bytes") or 0) > 0


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/apis/pipemax.dev/v1alpha1/namespaces/a/inferencejobs/b/status", "inferencejobs/status"),
        ("/apis/pipemax.dev/v1alpha1/namespaces/a/inferencejobs/b", "inferencejobs"),
        ("/apis/pipemax.dev/v1alpha1/inferencejobs", "inferencejobs"),
        ("/api/v1/namespaces/a/pods", "pods"),
        ("/api/v1/nodes", "nodes"),
        ("/apis/batch/v1/namespaces/status/jobs/namespaces", "jobs"),
    ],
)
def test_a_resource_is_named_without_names(path: str, resource: str) -> None:
    assert resource_of(path) == resource


def test_a_scrape_has_what_the_registry_has() -> None:
    metrics = OperatorMetrics()
    metrics.show("a", "reviews", "Running", {"totalRequests": 10, "completed": 3, "failed": 1})
    with metrics.reconciling():
        pass
    families = text_string_to_metric_families(metrics.exposition().decode())
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if family.name.startswith("pipemax_")
    }
    wanted = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if family.name.startswith("pipemax_")
    }
    assert found == wanted
    assert found["pipemax_job_requests", ("job", "reviews"), ("namespace", "a"), ("state", "total")]
