"""What workers find out about their machines is a condition, with what helps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.conditions import Condition
from pipemax_operator.exit_codes import PREFLIGHT_FAILED
from pipemax_operator.observed import ObservedJob, ObservedPod, Termination
from pipemax_operator.plan import plan
from pipemax_operator.preflight_condition import derive_condition
from pipemax_operator.progress import WorkerProgress, parse_progress
from pipemax_operator.settings import OperatorSettings

CHILD = ObservedJob("uid-2", active=1, ready=1)
OK = {"check": "memory", "severity": "ok", "message": "enough", "remedy": ""}
SLOW = {"check": "nvme-speed", "severity": "warning", "message": "slow", "remedy": "use NVMe"}


def worker(pod: str, *preflight: dict[str, str]) -> WorkerProgress:
    return parse_progress(pod, {"phase": "Starting", "preflight": list(preflight)})


def pod(name: str, age_seconds: float, exit_code: int | None = None, index: int = 0) -> ObservedPod:
    ended = None
    if exit_code is not None:
        ended = Termination(exit_code, "PreflightFailed", f"{name}: nvme: full; free it", NOW)
    since = NOW - timedelta(seconds=age_seconds)
    return ObservedPod(name, "Running", "", "", index, "node-1", since=since, termination=ended)


def said(*pods: ObservedPod, progress: tuple[WorkerProgress, ...] = ()) -> Condition | None:
    return derive_condition(observe(CHILD, *pods, progress=progress))


def test_nobody_has_spoken() -> None:
    assert said() is None
    assert said(pod("a", 5), progress=(worker("a"),)) is None, "an older worker, or too early"


def test_all_is_well() -> None:
    found = said(pod("a", 5), progress=(worker("a", OK),))
    assert found is not None
    assert (found.status, found.reason) == (True, "ChecksPassed")


def test_warnings_name_the_node_and_the_remedy() -> None:
    found = said(pod("a", 5), progress=(worker("a", OK, SLOW), worker("b", SLOW)))
    assert found is not None
    assert (found.status, found.reason) == (True, "PreflightWarnings")
    assert found.message.splitlines() == [
        "node-1: nvme-speed: slow; use NVMe",
        "b: nvme-speed: slow; use NVMe",
    ]


def test_the_newest_pod_of_an_index_counts() -> None:
    failed = pod("old", 60, PREFLIGHT_FAILED)
    found = said(failed)
    assert found is not None
    assert (found.status, found.reason) == (False, "PreflightFailed")
    assert found.message == "node-1: old: nvme: full; free it"
    assert said(failed, pod("new", 5)) is None, "the next one is at it"
    found = said(failed, pod("new", 5), progress=(worker("new", OK),))
    assert found is not None
    assert found.status
    found = said(failed, pod("other", 5, index=1), progress=(worker("other", OK),))
    assert found is not None
    assert not found.status, "one worker of several cannot start"


def test_many_are_summed_up() -> None:
    pods = [pod(f"p{index}", 5, PREFLIGHT_FAILED, index) for index in range(9)]
    found = said(*pods)
    assert found is not None
    assert found.message.endswith("and 4 more")


def status_of(**observed: Any) -> dict[str, Any]:
    made = plan(make_job(), observe(CHILD, **observed), NOW, OperatorSettings(), "team-a")
    assert made.status is not None
    told = [event.reason for event in made.events]
    return made.status | {"told": told}


def test_it_is_in_the_status_and_only_bad_news_is_an_event() -> None:
    well = status_of(progress=(worker("a", OK),))
    assert ("Preflight", "True") in [(c["type"], c["status"]) for c in well["conditions"]]
    assert "ChecksPassed" not in well["told"]
    assert "PreflightWarnings" in status_of(progress=(worker("a", SLOW),))["told"]
