"""The audit: it fills the cache, mends it, and knows which watch owes us something."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kit.fake_api_server import FakeApiServer
from pipemax_operator import names
from pipemax_operator.api_server import ForbiddenError
from pipemax_operator.audit import Audit
from pipemax_operator.object_cache import ObjectCache

Document = dict[str, Any]

JOBS = "/apis/pipemax.dev/v1alpha1/namespaces/{}/inferencejobs/{}"
PODS = "/api/v1/namespaces/{}/pods/{}"


class Scene:
    def __init__(self, *namespaces: str) -> None:
        self.api = FakeApiServer()
        self.cache = ObjectCache()
        self.now = 0.0
        self.num_missed = 0
        self.audit = Audit(self.api, self.cache, namespaces, lambda: self.now)  # type: ignore[arg-type]

    def put(self, form: str, kind: str, name: str, job: str = "", namespace: str = "a") -> Document:
        metadata = {"namespace": namespace, "name": name, "uid": f"{kind}-{namespace}-{name}"}
        labels = {names.JOB_LABEL: job}
        document = {"kind": kind, "metadata": {**metadata, "labels": labels}}
        return self.api.put(form.format(namespace, name), document)

    def run(self) -> frozenset[tuple[str, str]]:
        findings = asyncio.run(self.audit.run())
        self.num_missed += findings.num_missed
        return findings.stale


def test_the_first_one_fills_the_cache_page_by_page() -> None:
    scene = Scene()
    scene.api.page_size = 2
    for number in range(5):
        scene.put(JOBS, names.KIND, f"job-{number}")
    scene.put(PODS, "Pod", "job-0-0", job="job-0")
    assert scene.audit.last_success is None
    assert scene.run() == {("a", f"job-{number}") for number in range(5)}
    assert scene.cache.count(names.KIND) == 5
    assert len(scene.cache.pods_of("a", "job-0")) == 1
    assert scene.audit.last_success == 0.0
    assert scene.audit.behind_seconds() == {}  # the watches come later
    assert scene.run() == set()


def test_a_watch_that_does_not_tell_what_a_list_shows_is_behind_until_it_does() -> None:
    scene = Scene()
    scene.put(JOBS, names.KIND, "reviews")
    scene.run()
    scene.now = 300.0
    newer = scene.put(PODS, "Pod", "reviews-0", job="reviews")
    assert scene.run() == {("a", "reviews")}
    scene.now = 340.0
    assert scene.audit.behind_seconds() == {"Pod": 40.0}
    newer["kind"] = "Pod"
    scene.audit.told({**newer, "metadata": {**newer["metadata"], "resourceVersion": "1"}})
    assert scene.audit.behind_seconds() == {"Pod": 40.0}  # an old story
    scene.audit.told(newer)
    assert scene.audit.behind_seconds() == {}
    scene.run()
    assert scene.num_missed == 0  # it was only late


def test_since_when_a_watch_is_behind_stays_over_audits() -> None:
    scene = Scene()
    scene.put(JOBS, names.KIND, "reviews")
    scene.run()
    for scene.now in (300.0, 600.0):
        scene.put(JOBS, names.KIND, "reviews")
        scene.run()
    assert scene.audit.behind_seconds() == {names.KIND: 300.0}
    assert scene.num_missed == 1


def test_what_went_unseen_is_forgotten_and_its_job_looked_at() -> None:
    scene = Scene()
    scene.put(JOBS, names.KIND, "reviews")
    scene.put(PODS, "Pod", "reviews-0", job="reviews")
    scene.run()
    del scene.api.objects[PODS.format("a", "reviews-0")]
    assert scene.run() == {("a", "reviews")}
    assert scene.cache.pods_of("a", "reviews") == []
    assert scene.audit.behind_seconds() == {}
    assert scene.num_missed == 1


def test_namespaces_that_are_named_are_the_only_ones_listed() -> None:
    scene = Scene("a", "b")
    for namespace in ("a", "b", "c"):
        scene.put(JOBS, names.KIND, "reviews", namespace=namespace)
    assert scene.run() == {("a", "reviews"), ("b", "reviews")}
    assert ("GET", "/api/v1/namespaces/b/pods") in scene.api.calls


def test_a_right_that_lacks_is_raised_and_nothing_counts_as_listed() -> None:
    scene = Scene()
    scene.api.fault = ForbiddenError("cannot list resource pods")
    with pytest.raises(ForbiddenError):
        scene.run()
    assert scene.audit.last_success is None
