"""Jobs and pods from the API server's documents."""

from __future__ import annotations

from typing import Any

from kit.fake_kubectl import job_document, pod_document
from pipemax_worker.top.cluster import parse_jobs, parse_running_pods


def test_a_jobs_line_and_the_order_of_many() -> None:
    documents = [
        job_document("done", phase="Complete"),
        job_document("held", phase="Suspended", reason="WaitingForQuota"),
        job_document("reviews"),
        {"metadata": {"name": "new", "namespace": "a"}},
    ]
    jobs = parse_jobs(documents)
    assert [job.name for job in jobs] == ["reviews", "new", "held", "done"]
    reviews, new, held, _ = jobs
    assert (reviews.phase, reviews.percent, reviews.tokens_per_second) == ("Running", "42%", 1234)
    assert (reviews.remaining, reviews.summary, reviews.num_failed) == ("3h5m", "420/~1000", 3)
    assert (reviews.joules, reviews.gpu_hours) == (7_200_000, 2.5)
    assert reviews.reason == ""
    assert (new.phase, new.tokens_per_second, new.joules) == ("Pending", None, None)
    assert held.reason == "WaitingForQuota"


def test_pods_that_run_and_can_be_asked() -> None:
    documents: list[dict[str, Any]] = [
        pod_document("reviews-1"),
        pod_document("reviews-0"),
        pod_document("waiting-0", phase="Pending"),
        pod_document("old-0", port=None),
    ]
    documents.append(pod_document("ending-0"))
    documents[-1]["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    pods = parse_running_pods(documents)
    assert [pod.name for pod in pods] == ["reviews-0", "reviews-1"]
    assert pods[0].progress_path == "/api/v1/namespaces/a/pods/reviews-0:9400/proxy/progress"
    assert (pods[0].job, pods[0].node) == ("reviews", "node-a")
