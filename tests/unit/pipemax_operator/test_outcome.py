"""Where a job stands."""

from datetime import timedelta

import pytest
from kit.inference_jobs import NOW, ended_pod, make_job, observe
from pipemax_operator.observed import JobCondition, ObservedJob, ObservedPod
from pipemax_operator.outcome import Outcome, derive_outcome

COUNTS = {"completed": 7, "failed": 0}


def child(*conditions: JobCondition, **fields: int | bool) -> ObservedJob:
    return ObservedJob("uid-2", conditions=conditions, **fields)  # type: ignore[arg-type]


def outcome(job: ObservedJob | None, *pods: ObservedPod, **spec: object) -> Outcome:
    return derive_outcome(make_job(**spec), observe(job, *pods), NOW)


FAILED = JobCondition("Failed", "True", "PodFailurePolicy", "Container worker failed")
COMPLETE = JobCondition("Complete", "True")


@pytest.mark.parametrize(
    ("found", "phase", "reason"),
    [
        (outcome(None), "Pending", "Creating"),
        (outcome(child()), "Pending", "PodsPending"),
        (outcome(child(ready=1, active=1)), "Running", "WorkersRunning"),
        (outcome(child(COMPLETE), ended_pod(0, counts=COUNTS)), "Complete", "AllRecordsWritten"),
        (outcome(child(COMPLETE)), "Complete", "AllRecordsWritten"),
        (
            outcome(child(COMPLETE), ended_pod(0, counts={"completed": 6, "failed": 1})),
            "CompletedWithErrors",
            "CompletedWithErrors",
        ),
        (outcome(child(FAILED), ended_pod(66, "InputNotFound")), "Failed", "InputNotFound"),
        (outcome(child(FAILED)), "Failed", "PodFailurePolicy"),
        (
            outcome(child(JobCondition("Failed", "True", "DeadlineExceeded")), ended_pod(75, "x")),
            "Failed",
            "DeadlineExceeded",
        ),
        (outcome(child(suspended=True), suspend=True), "Suspended", "SuspendedByUser"),
        (outcome(None, suspend=True), "Suspended", "SuspendedByUser"),
        (outcome(child(suspended=True)), "Suspended", "Resuming"),
    ],
)
def test_phase_and_reason(found: Outcome, phase: str, reason: str) -> None:
    assert (found.phase, found.reason) == (phase, reason)


def test_one_worker_that_saw_all_records_is_enough() -> None:
    """Another index may have failed for good: what is complete is the ledger's word."""
    found = outcome(child(FAILED), ended_pod(69, "StageDied"), ended_pod(0, counts=COUNTS))
    assert found.phase == "Complete"
    assert "7 requests succeeded" in found.message


def waiting_pod(seconds: float, reason: str = "Unschedulable") -> ObservedPod:
    words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    since = NOW - timedelta(seconds=seconds)
    return ObservedPod("reviews-0-abc", "Pending", since=since, waiting=(reason, words))


def test_a_pod_that_cannot_run_is_told_with_the_clusters_words() -> None:
    found = outcome(child(active=1), waiting_pod(30))
    assert (found.phase, found.reason, found.is_stuck) == ("Pending", "Unschedulable", True)
    assert "Insufficient nvidia.com/gpu" in found.message


def test_a_moment_of_waiting_is_no_news() -> None:
    assert outcome(child(active=1), waiting_pod(5)).reason == "PodsPending"
    assert outcome(child(active=1), waiting_pod(30, "PodInitializing")).reason == "PodsPending"


def test_waiting_ends_at_the_start_deadline() -> None:
    found = outcome(child(active=1), waiting_pod(61), startDeadline="1m")
    assert (found.phase, found.reason) == ("Failed", "StartDeadlineExceeded")
    assert found.is_final
