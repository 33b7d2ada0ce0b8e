"""What Kueue holds: its words are told, and nobody fights over ``suspend``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.kueue import STOPPED_ANNOTATION, may_have_workload, parse_workload
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.observed import JobCondition, ObservedJob, ObservedWorkload
from pipemax_operator.outcome import Outcome, derive_outcome
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings

SETTINGS = OperatorSettings()
HELD = ObservedJob("uid-2", suspended=True, queue_name="team")
RELEASED = replace(HELD, suspended=False, active=1, ready=1)
PENDING = JobCondition("QuotaReserved", "False", "Pending", "8 more needed for nvidia.com/gpu")
RESERVED = JobCondition("QuotaReserved", "True")
ADMITTED = JobCondition("Admitted", "True")
EVICTED = JobCondition("Evicted", "True", "Preempted", "Preempted to accommodate a workload")
STOPPED = {"metadata": {"name": "job-reviews", "annotations": {STOPPED_ANNOTATION: "true"}}}


def workload(*conditions: JobCondition, **fields: bool) -> ObservedWorkload:
    return ObservedWorkload("job-reviews", conditions=conditions, **fields)


def made(child: ObservedJob | None, found: ObservedWorkload | None = None, **spec: Any) -> Plan:
    observed = replace(observe(child), workload=found)
    return plan(make_job(**spec), observed, NOW, SETTINGS, "team-a")


def outcome(child: ObservedJob, found: ObservedWorkload | None) -> Outcome:
    return derive_outcome(make_job(), replace(observe(child), workload=found), NOW)


@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        (None, "Queued", "waiting for Kueue to make a Workload in LocalQueue team"),
        (workload(), "Queued", "waiting in LocalQueue team"),
        (workload(PENDING), "Queued", "Kueue: 8 more needed for nvidia.com/gpu"),
        (workload(RESERVED), "Queued", "admission checks are pending"),
        (workload(RESERVED, ADMITTED), "Queued", "the pods are about to be made"),
        (workload(EVICTED), "Evicted", "Preempted: Preempted to accommodate"),
        (workload(EVICTED, PENDING), "Evicted", "a workload; 8 more needed"),
        (workload(EVICTED, is_active=False), "Evicted", "job-reviews is stopped (spec.active"),
    ],
)
def test_a_held_job_tells_kueues_words(
    found: ObservedWorkload | None, reason: str, words: str
) -> None:
    told = outcome(HELD, found)
    assert (told.phase, told.reason) == ("Suspended", reason)
    assert words in told.message


def test_the_same_words_are_told_once() -> None:
    same = JobCondition("QuotaReserved", "False", "Pending", EVICTED.message)
    assert outcome(HELD, workload(EVICTED, same)).message.count(EVICTED.message) == 1


def test_what_kueue_holds_is_not_released_by_us() -> None:
    for found in (None, workload(PENDING), workload(EVICTED)):
        assert made(HELD, found).child_changes == {}
        assert made(HELD, found).workload_changes == {}
    # A Kueue that manages every Job holds those without a queue, too.
    assert made(replace(HELD, queue_name=""), workload(PENDING)).child_changes == {}


def test_a_held_job_is_looked_at_again() -> None:
    assert made(HELD, workload(PENDING)).requeue_seconds == 3 * SETTINGS.poll_seconds
    assert made(HELD, workload(PENDING), suspend=True).requeue_seconds is None


def test_a_users_suspension_goes_by_way_of_the_workload() -> None:
    suspended = made(RELEASED, workload(RESERVED, ADMITTED), suspend=True)
    assert suspended.child_changes == {}
    assert suspended.workload_changes == STOPPED | {"spec": {"active": False}}
    stopped = workload(EVICTED, is_active=False, is_stopped_by_operator=True)
    assert made(HELD, stopped, suspend=True).workload_changes == {}
    resumed = made(HELD, stopped)
    assert resumed.child_changes == {}
    unmarked = {"name": "job-reviews", "annotations": {STOPPED_ANNOTATION: None}}
    assert resumed.workload_changes == {"metadata": unmarked, "spec": {"active": True}}


def test_other_nodes_for_a_held_job_keep_its_place() -> None:
    changed = made(HELD, workload(PENDING), parallelism={"nodes": 4})
    assert changed.child_changes["parallelism"] == 4
    assert "suspend" not in changed.child_changes
    assert "Readmission" not in {event.reason for event in changed.events}


def test_other_nodes_for_a_released_job_send_it_back_and_say_so() -> None:
    changed = made(RELEASED, None, parallelism={"nodes": 4})
    assert changed.child_changes["completions"] == 4
    (told,) = [event for event in changed.events if event.reason == "Readmission"]
    assert "spec.parallelism.nodes is 4, was 1: Kueue stops the workers" in told.message
    assert "LocalQueue team" in told.message
    assert not told.is_warning
    settled = made(replace(RELEASED, num_indexes=4), None, parallelism={"nodes": 4})
    unqueued = made(replace(RELEASED, queue_name=""), None, parallelism={"nodes": 4})
    for plan_without in (settled, unqueued, made(RELEASED, None)):
        assert "Readmission" not in {event.reason for event in plan_without.events}


def test_what_an_administrator_has_stopped_stays_stopped() -> None:
    assert made(HELD, workload(EVICTED, is_active=False)).workload_changes == {}


def test_without_a_workload_the_job_itself_is_suspended() -> None:
    """Kueue is not there, or has not seen it yet: the pods must stop all the same."""
    assert made(RELEASED, None, suspend=True).child_changes == {"suspend": True}


def test_a_job_suspended_before_its_start_is_not_made() -> None:
    found = made(None, suspend=True, scheduling={"queueName": "team"})
    assert found.apply == ()
    assert found.status is not None
    assert found.status["phase"] == "Suspended"


def child(labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    job = make_job(**spec)
    if labels:
        job = job.model_copy(
            update={"metadata": job.metadata.model_copy(update={"labels": labels})}
        )
    return build_batch_job(job, Owner("team-a", "uid-1"), SETTINGS)


def test_a_queue_is_a_label_and_a_suspended_child() -> None:
    queue_label = "kueue.x-k8s.io/queue-name"
    made_of_spec = child(scheduling={"queueName": "team"})
    made_of_label = child({queue_label: "team", "kueue.x-k8s.io/priority-class": "urgent"})
    for document in (made_of_spec, made_of_label):
        assert document["metadata"]["labels"][queue_label] == "team"
        assert document["spec"]["suspend"] is True
    assert made_of_label["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "urgent"
    assert child()["spec"]["suspend"] is False


@pytest.mark.parametrize(
    ("suspended", "suspend", "expected"),
    [
        (False, False, False),  # it runs, by way of a queue or not: that costs no call
        (True, False, True),  # held by whom?
        (False, True, True),
        (True, True, True),  # by the user; Kueue must not release it
    ],
)
def test_where_a_workload_is_looked_for(suspended: bool, suspend: bool, expected: bool) -> None:
    job = ObservedJob("uid-2", suspended=suspended)
    assert may_have_workload(make_job(suspend=suspend), job) is expected


def test_a_workload_as_the_api_server_has_it() -> None:
    condition = {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "words"}
    document = {
        **STOPPED,
        "spec": {"active": False},
        "status": {"conditions": [{**condition, "lastTransitionTime": "2026-11-22T12:00:00Z"}]},
    }
    assert parse_workload(document) == ObservedWorkload(
        "job-reviews", False, True, (JobCondition("Evicted", "True", "Preempted", "words"),)
    )
    new = parse_workload({"metadata": {"name": "job-reviews"}, "spec": {}})
    assert (new.is_active, new.is_stopped_by_operator, new.conditions) == (True, False, ())
