"""A job whose child's name somebody else has: what is told, and what is left undone."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.conditions import format_time
from pipemax_operator.observed import Observed, ObservedJob
from pipemax_operator.ownership import TakenName
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings

SETTINGS = OperatorSettings()
TAKEN = TakenName("ConfigMap team-a/reviews", "it has no owner")
LEAVING = TakenName("Job team-a/reviews", "it is being deleted", is_leaving=True)
CHILD = ObservedJob("uid-2", active=1, ready=1)
START_DEADLINE = timedelta(seconds=make_job().spec.start_deadline)


def made(observed: Observed, now: datetime = NOW, **spec: Any) -> Plan:
    return plan(make_job(**spec), observed, now, SETTINGS, "team-a")


def without_name(taken: TakenName = TAKEN, age_seconds: float = 60, **more: Any) -> Observed:
    created_at = NOW - timedelta(seconds=age_seconds)
    return replace(observe(taken=taken, **more), created_at=created_at)


def condition(found: Plan, kind: str) -> dict[str, Any]:
    assert found.status is not None
    (said,) = (one for one in found.status["conditions"] if one["type"] == kind)
    return dict(said)


def test_it_is_told_and_nothing_is_made() -> None:
    first = made(without_name())
    assert first.apply == ()
    said = condition(first, "Progressing")
    assert (said["status"], said["reason"]) == ("False", "NameTaken")
    assert "ConfigMap team-a/reviews was not made for this InferenceJob" in said["message"]
    assert "delete it" in said["message"]
    assert first.status is not None
    assert first.status["phase"] == "Pending"
    (event,) = first.events
    assert (event.reason, event.is_warning) == ("NameTaken", True)
    again = made(without_name(status=first.status))
    assert (again.status, again.events) == (None, ())
    assert again.requeue_seconds == SETTINGS.poll_seconds, "to see whether it is gone"


def test_it_goes_on_once_the_name_is_free() -> None:
    told = made(without_name()).status
    freed = made(replace(without_name(status=told), taken=None))
    assert [one["kind"] for one in freed.apply] == ["ConfigMap", "Job"]
    assert condition(freed, "Progressing")["reason"] == "Creating"


def test_it_fails_at_the_start_deadline_and_deletes_nothing() -> None:
    """The Job of that name is not ours to delete."""
    job = TakenName("Job team-a/reviews", "it has no owner")
    told = made(without_name(job)).status
    assert told is not None
    late = made(without_name(job, status=told), NOW + START_DEADLINE)
    assert late.status is None, "not yet"
    failed = made(without_name(job, status=told), NOW + START_DEADLINE + timedelta(seconds=1))
    assert condition(failed, "Failed")["reason"] == "StartDeadlineExceeded"
    assert "Job team-a/reviews was not made" in condition(failed, "Failed")["message"]
    assert not failed.delete_child
    assert made(without_name(job, status=failed.status or {})) == Plan()


def test_a_job_from_before_the_operator_has_its_whole_time() -> None:
    found = made(without_name(age_seconds=9e6))
    assert found.status is not None
    assert found.status["phase"] == "Pending"


@pytest.mark.parametrize(
    ("suspended", "since", "phase"),
    [
        ("False", NOW - 2 * START_DEADLINE, "Failed"),
        ("False", NOW - timedelta(seconds=10), "Pending"),
        ("True", NOW - 2 * START_DEADLINE, "Pending"),
    ],
)
def test_the_deadline_counts_from_when_it_may_run(
    suspended: str, since: datetime, phase: str
) -> None:
    said = {"type": "Suspended", "status": suspended, "lastTransitionTime": format_time(since)}
    status = {"conditions": [{**said, "reason": "x", "message": ""}]}
    found = made(without_name(age_seconds=9e6, status=status))
    assert found.status is not None
    assert found.status["phase"] == phase


def test_a_job_that_had_its_start_waits() -> None:
    """Somebody deleted its Job and took the name."""
    found = made(without_name(age_seconds=9e6, status={"startTime": format_time(NOW)}))
    assert found.status is not None
    assert found.status["phase"] == "Pending"


def test_a_suspended_job_needs_no_name() -> None:
    found = made(without_name(), suspend=True)
    assert found.status is not None
    assert found.status["phase"] == "Suspended"


def test_a_predecessors_child_is_waited_for_and_told_of_only_if_it_lasts() -> None:
    assert made(without_name(LEAVING, age_seconds=5)) == Plan(requeue_seconds=1.0)
    later = made(without_name(LEAVING, age_seconds=9e6))
    assert later.apply == ()
    said = condition(later, "Progressing")
    assert (said["status"], said["reason"]) == ("False", "WaitingForName")
    assert "waiting until Job team-a/reviews is gone" in said["message"]
    assert later.status is not None
    assert later.status["phase"] == "Pending", "it never fails for that"
    assert [event.is_warning for event in later.events] == [False]


def test_a_running_job_goes_on_and_says_what_is_not_carried_out() -> None:
    before = made(observe(CHILD)).status
    assert before is not None
    changed = replace(observe(CHILD, status=before), generation=2)
    assert [one["kind"] for one in made(changed).apply] == ["ConfigMap"]
    held = made(replace(changed, taken=TAKEN))
    assert held.apply == ()
    assert held.status is not None
    assert (held.status["phase"], held.status["observedGeneration"]) == ("Running", 1)
    said = condition(held, "Progressing")
    assert (said["status"], said["reason"]) == ("True", "WorkersRunning")
    assert "last change is not carried out: ConfigMap team-a/reviews was not" in said["message"]
    assert [(e.reason, e.is_warning) for e in held.events] == [("NameTaken", True)]


def test_a_running_job_says_so_once_and_tries_again() -> None:
    before = made(observe(CHILD)).status
    changed = replace(observe(CHILD, status=before), generation=2)
    held = made(replace(changed, taken=TAKEN))
    again = replace(changed, status=held.status or {})
    assert [one["kind"] for one in made(again).apply] == ["ConfigMap"]
    still = made(replace(again, taken=TAKEN))
    assert (still.status, still.events) == (None, ())
    freed = made(again)
    assert freed.status is not None
    assert freed.status["observedGeneration"] == 2
    assert "not carried out" not in condition(freed, "Progressing")["message"]
