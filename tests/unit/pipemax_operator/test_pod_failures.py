"""Workers that end before they have done anything: told at once, given up at the start deadline."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.exit_codes import NODE_RESTARTED
from pipemax_operator.observed import Observed, ObservedJob, ObservedPod, Termination
from pipemax_operator.outcome import Outcome, derive_outcome
from pipemax_operator.pod_failures import find_failing
from pipemax_operator.terminations import find_termination

CHILD = ObservedJob("uid-2", active=1, start_time=NOW - timedelta(hours=1))
ANYTHING = {"progress": {"completed": 1}}


def failed(
    age_seconds: float, exit_code: int = 74, reason: str = "KVTierFailed", **fields: Any
) -> ObservedPod:
    """A pod that was made then and ended five seconds later."""
    since = NOW - timedelta(seconds=age_seconds)
    ended = Termination(exit_code, reason, f"{reason}: words", since + timedelta(seconds=5))
    name = f"reviews-0-{round(age_seconds)}"
    return ObservedPod(name, "Failed", node="node-1", since=since, termination=ended, **fields)


LOADING = ObservedPod("reviews-0-new", "Running", node="node-2", since=NOW)


def outcome(*pods: ObservedPod, status: dict[str, Any] | None = None) -> Outcome:
    job = make_job(startDeadline="2m")
    return derive_outcome(job, observe(CHILD, *pods, status=status), NOW)


def test_the_next_try_does_not_hide_why_the_last_one_failed() -> None:
    found = outcome(failed(30), LOADING)
    assert (found.phase, found.reason, found.is_stuck) == ("Pending", "KVTierFailed", True)
    assert found.message == "pod reviews-0-30 on node node-1 has failed: KVTierFailed: words"
    assert outcome(LOADING).reason == "Loading"


def test_a_worker_that_is_ready_is_all_that_counts() -> None:
    observed = observe(replace(CHILD, ready=1), failed(30))
    assert derive_outcome(make_job(), observed, NOW).phase == "Running"


@pytest.mark.parametrize(
    ("pods", "status", "phase"),
    [
        ((failed(150), failed(100)), {}, "Failed"),
        ((failed(110), failed(50)), {}, "Pending"),
        ((failed(150),), {}, "Pending"),
        ((failed(150), failed(100)), ANYTHING, "Pending"),
    ],
    ids=["all along", "not so long", "only one", "the job has worked before"],
)
def test_workers_that_never_get_going(
    pods: tuple[ObservedPod, ...], status: dict[str, Any], phase: str
) -> None:
    found = outcome(*pods, status=status)
    assert found.phase == phase
    if phase == "Failed":
        assert found.reason == "StartDeadlineExceeded"
        assert "KVTierFailed: words" in found.message


def failing(observed: Observed) -> str | None:
    found = find_failing(observed, NOW)
    return None if found is None else found.reason


def test_old_stories() -> None:
    assert failing(observe(CHILD, failed(1000), status=ANYTHING)) is None, "long ago"
    assert failing(observe(CHILD, failed(7200))) is None, "before the job was resumed"
    assert failing(observe(CHILD, failed(60), status=ANYTHING)) == "KVTierFailed"


def test_stops_and_lost_nodes_are_no_failures() -> None:
    assert failing(observe(CHILD, failed(30, exit_code=75))) is None
    assert failing(observe(CHILD, failed(30, exit_code=0))) is None
    assert failing(observe(CHILD, failed(30, given_up_at=NOW))) is None


def test_the_last_one_speaks_and_silence_has_a_number() -> None:
    pods = [failed(90, reason="old"), failed(30, reason="new"), failed(60, reason="middle")]
    assert failing(observe(CHILD, *pods)) == "new"
    assert failing(observe(CHILD, failed(30, exit_code=139, reason=""))) == "ExitCode139"


def terminated(**state: Any) -> dict[str, Any]:
    return {"state": {"terminated": {"exitCode": 137, "reason": "Error", **state}}}


def test_a_kill_for_lack_of_memory_says_what_helps() -> None:
    found = find_termination({"containerStatuses": [terminated(reason="OOMKilled")]})
    assert found is not None
    assert (found.exit_code, found.reason) == (137, "OOMKilled")
    assert "worker.memoryOverhead" in found.message


def test_a_node_that_was_restarted_is_named_as_the_cause() -> None:
    """As containerd reports it: nobody knows how the container ended."""
    found = find_termination({"containerStatuses": [terminated(reason="Unknown", exitCode=255)]})
    assert found is not None
    assert (found.exit_code, found.reason) == (NODE_RESTARTED, "NodeRestarted")
    assert "was restarted while the worker ran" in found.message
    said = terminated(reason="Error", exitCode=255, message="the image's own words")
    own = find_termination({"containerStatuses": [said]})
    assert own is not None
    assert (own.reason, own.message) == ("Error", "the image's own words")


def test_a_container_before_the_worker_may_be_the_one_that_failed() -> None:
    before = terminated(exitCode=74, message='{"reason": "KVTierFailed", "message": "no folder"}')
    waiting = {"state": {"waiting": {"reason": "PodInitializing"}}}
    found = find_termination({"initContainerStatuses": [before], "containerStatuses": [waiting]})
    assert found is not None
    assert (found.exit_code, found.message) == (74, "no folder")
    well = terminated(exitCode=0)
    assert find_termination({"initContainerStatuses": [well], "containerStatuses": []}) is None
