"""Workers that read different marks at the output do not share it, and the job ends."""

from __future__ import annotations

from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.observed import Observed, ObservedJob, ObservedPod, Termination
from pipemax_operator.output_sharing import find_unshared
from pipemax_operator.plan import plan
from pipemax_operator.progress import WorkerProgress
from pipemax_operator.settings import OperatorSettings

CHILD = ObservedJob("uid-2", active=2, ready=2)


def pod(name: str, **more: bool) -> ObservedPod:
    return ObservedPod(name, "Running", node=f"node-of-{name}", is_ready=True, **more)


def seen(*pods: ObservedPod, **marks: str) -> Observed:
    progress = tuple(WorkerProgress(name, ledger_mark=mark) for name, mark in marks.items())
    return observe(CHILD, *pods, progress=progress)


def test_workers_that_read_the_same_mark_share_it() -> None:
    assert find_unshared(seen(pod("a"), pod("b"), a="5ee1", b="5ee1")) is None


def test_who_has_not_spoken_or_is_leaving_proves_nothing() -> None:
    assert find_unshared(seen(pod("a"), pod("b"), a="5ee1", b="")) is None
    assert find_unshared(seen(pod("a"), a="5ee1", b="07e8")) is None
    leaving = pod("b", is_terminating=True)
    assert find_unshared(seen(pod("a"), leaving, a="5ee1", b="07e8")) is None


def test_different_marks_end_the_job_and_its_pods() -> None:
    observed = seen(pod("a"), pod("b"), a="5ee1", b="07e8")
    made = plan(make_job(), observed, NOW, OperatorSettings(), "team-a")
    assert made.status is not None
    assert made.status["phase"] == "Failed"
    failed = next(c for c in made.status["conditions"] if c["type"] == "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "StoreNotShared")
    assert "node-of-a and node-of-b do not see the same output" in failed["message"]
    assert made.delete_child
    assert [(event.reason, event.is_warning) for event in made.events] == [("StoreNotShared", True)]


def test_a_last_word_stands_before_it() -> None:
    ended = ObservedPod("a", "Succeeded", termination=Termination(0, counts={"completed": 4}))
    made = plan(make_job(), seen(ended, pod("b"), b="07e8"), NOW, OperatorSettings(), "team-a")
    assert made.status is not None
    assert made.status["phase"] == "Complete"
