"""A job starts with its first pod that runs, however early its child Job did."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.conditions import format_time
from pipemax_operator.observation import parse_pod
from pipemax_operator.observed import Observed, ObservedJob, ObservedPod
from pipemax_operator.plan import plan
from pipemax_operator.settings import OperatorSettings

CHILD = ObservedJob("uid-2", active=2, start_time=NOW - timedelta(minutes=5))
LATER = NOW - timedelta(minutes=1)


def start_of(observed: Observed) -> Any:
    status = plan(make_job(), observed, NOW, OperatorSettings(), "default").status
    assert status is not None
    return status.get("startTime")


def test_a_job_whose_pods_wait_for_a_node_has_not_started() -> None:
    assert start_of(observe(CHILD, ObservedPod("reviews-0-abc", "Pending"))) is None
    taken = ObservedPod("reviews-0-abc", "Pending", started_at=LATER)  # its image is fetched
    assert start_of(observe(CHILD, taken)) is None


def test_the_first_pod_that_runs_starts_it_once_and_for_all() -> None:
    first = ObservedPod("reviews-1-abc", "Running", started_at=LATER)
    second = ObservedPod("reviews-0-abc", "Running", started_at=NOW)
    assert start_of(observe(CHILD, second, first)) == format_time(LATER)
    before = {"startTime": format_time(LATER)}
    assert start_of(observe(CHILD, second, status=before)) == format_time(LATER)


def test_of_pods_that_nobody_saw_the_child_tells() -> None:
    assert CHILD.start_time is not None
    ended = replace(CHILD, active=0, failed=1)
    assert start_of(observe(ended)) == format_time(CHILD.start_time)


def test_when_a_node_took_a_pod() -> None:
    document = {"metadata": {"name": "a"}, "status": {"startTime": "2026-11-22T12:00:00Z"}}
    assert parse_pod(document).started_at == NOW
    assert parse_pod({"metadata": {"name": "a"}}).started_at is None
