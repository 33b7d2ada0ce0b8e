"""What tests of a running job wait for and look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kit.control_plane import waiting
from kit.control_plane.real_node_job import Document, RealNodeJob

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

# What a job of these tests has to do, unless it says otherwise.
NUM_FILES, LINES_PER_FILE = 6, 8
NUM_REQUESTS = NUM_FILES * LINES_PER_FILE
SUMMARY = f"{NUM_REQUESTS}/{NUM_REQUESTS}"

# Few requests at a time: the job lasts long enough for a fault in its middle.
SLOW = {"device": "cpu", "maxNumRequests": 2, "lookAhead": 4}


def eventually(job: RealNodeJob, found: Callable[[], Any], timeout_seconds: float = 240.0) -> Any:
    """The first true answer. AssertionError with all that Kubernetes knows if there is none."""
    return waiting.eventually(found, timeout_seconds, job.describe)


def condition(status: Document, kind: str) -> Document:
    return next(c for c in status["conditions"] if c["type"] == kind)


def reaches(job: RealNodeJob, phase: str) -> Callable[[], Document | None]:
    """The status, once it has that phase."""

    def check() -> Document | None:
        status = job.status()
        return status if status.get("phase") == phase else None

    return check


def runs_with_records(job: RealNodeJob, at_least: int) -> Callable[[], bool]:
    """Some records are on disk and the job is not over: the moment for a fault."""

    def check() -> bool:
        assert job.status().get("phase") not in ("Complete", "Failed"), job.describe()
        return job.num_records() >= at_least

    return check


def running_pods(job: RealNodeJob, count: int) -> list[Document]:
    """The pods that run, if they are so many; else none."""
    pods = [pod for pod in job.pods() if pod["status"]["phase"] == "Running"]
    return pods if len(pods) == count else []


def pod_index(pod: Document) -> int:
    return int(pod["metadata"]["annotations"][INDEX_ANNOTATION])


def exit_code(pod: Document) -> int | None:
    """Of the worker, once it has ended."""
    for container in pod["status"].get("containerStatuses", ()):
        if ended := container["state"].get("terminated"):
            return int(ended["exitCode"])
    return None


def evict(job: RealNodeJob, pod: Document) -> None:
    """By the Eviction API, as ``kubectl drain`` does."""
    metadata = {"name": pod["metadata"]["name"], "namespace": job.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{job.namespace}/pods/{metadata['name']}/eviction"
    job.plane.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
