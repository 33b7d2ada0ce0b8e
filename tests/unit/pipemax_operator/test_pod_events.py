"""What only events tell of a pod."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from kit.inference_jobs import NOW
from pipemax_operator.observed import ObservedPod
from pipemax_operator.outcome import STUCK_REASONS
from pipemax_operator.pod_events import TOLD_BY_EVENTS, add_events, is_silent


def pod(age_seconds: float = 30, **fields: Any) -> ObservedPod:
    since = NOW - timedelta(seconds=age_seconds)
    return ObservedPod(
        "p", **{"phase": "Pending", "uid": "u", "node": "n", "since": since} | fields
    )


@pytest.mark.parametrize(
    ("found", "is_asked"),
    [
        (pod(), True),
        (pod(age_seconds=5), False),
        (pod(node=""), False),
        (pod(phase="Running"), False),
        (pod(is_terminating=True), False),
        (pod(waiting=("ErrImagePull", "")), False),
        (pod(since=None), False),
    ],
)
def test_which_pods_are_asked_about(found: ObservedPod, is_asked: bool) -> None:
    assert is_silent(found, NOW) is is_asked


def event(reason: str, message: str, last: str | None = None, **more: Any) -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": last, **more}


def test_the_last_word_on_what_does_not_start() -> None:
    events = [
        event("FailedMount", "new", "2026-11-22T12:00:09Z"),
        event("FailedMount", "old", "2026-11-22T12:00:01Z"),
        event("Unhealthy", "another matter", "2026-11-22T12:00:11Z"),
        event("FailedMount", "older", None, eventTime="2026-11-22T11:00:01.000000Z"),
    ]
    (told,) = add_events([pod()], {"u": events})
    assert told.waiting == ("FailedMount", "new")


def test_the_pods_own_status_says_it_better() -> None:
    own = pod(waiting=("ErrImagePull", "no such image"))
    assert add_events([own], {"u": [event("FailedMount", "x", "2026")]}) == (own,)


def test_no_word_is_no_reason() -> None:
    assert add_events([pod()], {}) == (pod(),)
    assert add_events([pod()], {"u": [event("Scheduled", "", "2026")]}) == (pod(),)


def test_each_of_them_is_a_reason_to_be_stuck() -> None:
    assert TOLD_BY_EVENTS <= STUCK_REASONS
