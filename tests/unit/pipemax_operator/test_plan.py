"""What is to be done about a job: pure, and twice the same is once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from kit.inference_jobs import NOW, ended_pod, make_job, observe
from pipemax_operator.observed import JobCondition, Observed, ObservedJob
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings

SETTINGS = OperatorSettings()
CHILD = ObservedJob("uid-2", active=1, ready=1)


def made(observed: Observed, **spec: Any) -> Plan:
    return plan(make_job(**spec), observed, NOW, SETTINGS, "team-a")


def test_children_are_made_once() -> None:
    first = made(observe())
    assert [child["kind"] for child in first.apply] == ["ConfigMap", "Job"]
    for child in first.apply:
        owner = child["metadata"]["ownerReferences"][0]
        assert (owner["uid"], owner["controller"]) == ("uid-1", True)
        assert child["metadata"]["namespace"] == "team-a"
    assert made(observe(CHILD)).apply == ()


def test_nothing_is_written_when_nothing_has_changed() -> None:
    first = made(observe(CHILD))
    assert first.status is not None
    assert len(first.events) == 1
    again = made(observe(CHILD, status=first.status))
    assert again.status is None
    assert again.events == ()
    assert again.requeue_seconds == SETTINGS.poll_seconds


def test_suspend_and_deadline_are_mirrored() -> None:
    assert made(observe(CHILD), suspend=True).child_changes == {"suspend": True}
    suspended = replace(CHILD, suspended=True)
    assert made(observe(suspended)).child_changes == {"suspend": False}
    assert made(observe(CHILD), deadline="1h").child_changes == {"activeDeadlineSeconds": 3600}
    limited = replace(CHILD, deadline_seconds=3600)
    assert made(observe(limited)).child_changes == {"activeDeadlineSeconds": None}


def test_a_deleted_job_is_left_alone() -> None:
    assert made(replace(observe(), is_deleting=True)) == Plan()


def finished() -> dict[str, Any]:
    done = JobCondition("Complete", "True")
    pod = ended_pod(0, counts={"completed": 7, "failed": 0})
    status = made(observe(replace(CHILD, conditions=(done,)), pod)).status
    assert status is not None
    return status


def test_after_the_end_nothing_is_done() -> None:
    status = finished()
    assert status["phase"] == "Complete"
    assert status["completionTime"] == "2026-11-22T12:00:00Z"
    # The child Job is gone (its own time to live): it must not be made again.
    assert made(observe(None, status=status)) == Plan()


def test_the_time_to_live_counts_from_the_end() -> None:
    observed = observe(None, status=finished())
    job = make_job(ttlSecondsAfterFinished=60)
    early = plan(job, observed, NOW + timedelta(seconds=59), SETTINGS, "team-a")
    assert (early.delete_self, early.requeue_seconds) == (False, 1.0)
    assert plan(job, observed, NOW + timedelta(seconds=60), SETTINGS, "team-a").delete_self


def test_events_are_warnings_where_somebody_should_look() -> None:
    failed = JobCondition("Failed", "True", "PodFailurePolicy")
    found = made(observe(replace(CHILD, conditions=(failed,)), ended_pod(66, "InputNotFound")))
    (event,) = found.events
    assert (event.reason, event.is_warning) == ("InputNotFound", True)
