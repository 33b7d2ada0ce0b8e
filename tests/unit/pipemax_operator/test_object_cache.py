"""The cache: newer wins, the dead stay dead, and nobody changes what is kept."""

from __future__ import annotations

from typing import Any

from pipemax_operator import names
from pipemax_operator.object_cache import ObjectCache, ObjectKey, job_of

Document = dict[str, Any]


def document(kind: str, name: str, version: int = 1, uid: str = "", job: str = "") -> Document:
    return {
        "kind": kind,
        "metadata": {
            "namespace": "a",
            "name": name,
            "uid": uid or f"{kind}-{name}",
            "resourceVersion": str(version),
            "labels": {names.JOB_LABEL: job} if job else {},
            "managedFields": [{"manager": "pipemax-operator"}],
        },
        "spec": {"containers": [{"name": "worker"}], "nodeName": "n1"},
        "status": {"phase": f"v{version}"},
    }


def test_an_older_version_changes_nothing() -> None:
    cache = ObjectCache()
    assert cache.store(document(names.KIND, "reviews", 9))
    assert not cache.store(document(names.KIND, "reviews", 9))
    assert not cache.store(document(names.KIND, "reviews", 5))
    assert cache.store(document(names.KIND, "reviews", 10))
    found = cache.get(names.KIND, "a", "reviews")
    assert found is not None
    assert found["status"] == {"phase": "v10"}
    assert cache.jobs() == [("a", "reviews")]


def test_versions_are_numbers_and_no_texts() -> None:
    cache = ObjectCache()
    cache.store(document("Job", "reviews", 99))
    assert cache.store(document("Job", "reviews", 100))


def test_what_was_deleted_does_not_come_back_by_a_late_answer() -> None:
    cache = ObjectCache()
    cache.store(document("Job", "reviews", 1, uid="first"))
    assert cache.remove(document("Job", "reviews", 2, uid="first"))
    assert not cache.store(document("Job", "reviews", 3, uid="first"))
    assert cache.get("Job", "a", "reviews") is None
    assert cache.store(document("Job", "reviews", 4, uid="second"))
    assert not cache.remove(document("Job", "reviews", 3, uid="first"))
    assert cache.get("Job", "a", "reviews") is not None


def test_pods_are_found_by_their_job() -> None:
    cache = ObjectCache()
    for name in ("reviews-1", "reviews-0"):
        cache.store(document("Pod", name, job="reviews"))
    cache.store(document("Pod", "other-0", job="other"))
    found = [pod["metadata"]["name"] for pod in cache.pods_of("a", "reviews")]
    assert found == ["reviews-0", "reviews-1"]
    cache.remove(document("Pod", "reviews-0", 2, job="reviews"))
    assert len(cache.pods_of("a", "reviews")) == 1
    assert cache.pods_of("b", "reviews") == []
    assert cache.count("Pod") == 2
    assert cache.job_named_by(ObjectKey("Pod", "a", "other-0")) == "other"


def test_a_pod_that_is_given_another_job_leaves_the_first() -> None:
    cache = ObjectCache()
    cache.store(document("Pod", "p", 1, job="reviews"))
    cache.store(document("Pod", "p", 2, job="other"))
    assert cache.pods_of("a", "reviews") == []
    assert cache.remove(document("Pod", "p", 3, job="other"))
    assert cache.pods_of("a", "other") == []


def test_what_nobody_reads_is_not_kept_and_what_is_read_may_be_changed() -> None:
    cache = ObjectCache()
    cache.store(document("Pod", "reviews-0", job="reviews"))
    pod = cache.pods_of("a", "reviews")[0]
    assert "managedFields" not in pod["metadata"]
    assert pod["spec"] == {"nodeName": "n1"}
    pod["status"]["phase"] = "mine"
    assert cache.pods_of("a", "reviews")[0]["status"]["phase"] == "v1"


def test_other_kinds_are_none_of_ours() -> None:
    cache = ObjectCache()
    assert not cache.store(document("ConfigMap", "reviews", job="reviews"))
    assert job_of(document("Pod", "p", job="reviews")) == "reviews"
    assert job_of(document("Pod", "p")) == ""
