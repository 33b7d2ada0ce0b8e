"""Folders and images that an administrator has not opened to jobs are refused before pods run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.job_policy import REASON, find_forbidden, may_mount, may_run
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.observed import Observed, ObservedJob
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings

OWNER = Owner("team-a", "uid-1")
STRICT = OperatorSettings(allowed_host_paths=(), allowed_images=())
OPEN_MODELS = replace(STRICT, allowed_host_paths=("/models", "/data/{namespace}"))


@pytest.mark.parametrize(
    ("path", "allowed", "fits"),
    [
        ("/", "/", True),
        ("/etc", "/", True),
        ("/models", "/models", True),
        ("/models/", "/models", True),
        ("/models/a/b", "/models/", True),
        ("//models/./a", "/models", True),
        ("/models-of-others", "/models", False),
        ("/", "/models", False),
        ("/model", "/models", False),
        ("/models/../etc", "/models", False),
        ("/models/..", "/", False),
        ("/data/team-a/x", "/data/{namespace}", True),
        ("/data/team-b/x", "/data/{namespace}", False),
        ("/data/{namespace}", "/data/{namespace}", False),
        ("/models", "", False),
        ("/models", "models", False),
        ("models", "/", False),
    ],
)
def test_a_folder_lies_in_another_by_its_parts(path: str, allowed: str, fits: bool) -> None:
    assert may_mount(path, allowed, "team-a") is fits


@pytest.mark.parametrize(
    ("image", "allowed", "fits"),
    [
        ("anything:1", "*", True),
        ("registry.internal/team/worker:1", "registry.internal/team/*", True),
        ("registry.internal/team/worker:1", "registry.internal/team/worker:1", True),
        ("registry.internal/team/worker:2", "registry.internal/team/worker:1", False),
        ("registry.internal/team/worker:2", "registry.internal/team/worker:*", True),
        ("registry.internal.evil/team/worker", "registry.internal/team/*", False),
        ("worker", "docker.io/library/worker", False),
    ],
)
def test_an_image_is_a_text(image: str, allowed: str, fits: bool) -> None:
    assert may_run(image, allowed) is fits


NVME = {"size": "1Ti", "hostPath": "/mnt/nvme"}
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": {"uri": "hostPath:///secret"}}, "/secret"),
    "model's cache": ({"model": {"uri": "a/b", "cacheDir": "hostPath:///secret"}}, "/secret"),
    "input": ({"input": {"uri": "hostPath:///secret/x.jsonl"}}, "/secret/x.jsonl"),
    "one of several inputs": (
        {"input": {"uris": ["pvc://data/x", "hostPath:///secret"]}},
        "/secret",
    ),
    "a pattern is mounted from above it": ({"input": {"uri": "hostPath:///mod*/x"}}, "/"),
    "output": ({"output": {"uri": "hostPath:///secret"}}, "/secret"),
    "scheme in other letters": ({"output": {"uri": "HOSTPATH:///secret"}}, "/secret"),
    "earlier output": ({"resumeFrom": "hostPath:///secret"}, "/secret"),
    "nvme": ({"kvCache": {"host": "1Gi", "nvme": NVME}}, "/mnt/nvme"),
    "nvme, going up": (
        {"kvCache": {"host": "1Gi", "nvme": {**NVME, "hostPath": "/models/../etc"}}},
        "/models/../etc",
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_every_folder_of_a_node_is_looked_at(case: str) -> None:
    spec, path = PLACES[case]
    job = make_job(**{"model": {"uri": "hostPath:///models/tiny"}, **spec})
    said = find_forbidden(job, OWNER, OPEN_MODELS)
    assert said is not None
    assert f"folder {path} is not open to InferenceJobs of namespace team-a" in said
    assert "/models, /data/team-a" in said
    assert find_forbidden(job, OWNER, OperatorSettings()) is None or ".." in path


def test_what_needs_no_folder_of_a_node_is_free() -> None:
    free = {
        "model": {"uri": "s3://models/tiny"},
        "kvCache": {"host": "1Gi", "nvme": {"size": "1Ti", "emptyDir": {}}},
    }
    assert find_forbidden(make_job(**free), OWNER, STRICT) is None


def test_the_administrators_own_volumes_are_no_business_of_the_job() -> None:
    volume = {"name": "venv", "hostPath": {"path": "/venv"}}
    settings = replace(STRICT, extra_volumes=(volume,))
    assert find_forbidden(make_job(model={"uri": "s3://models/tiny"}), OWNER, settings) is None


def test_a_jobs_own_image_is_looked_at() -> None:
    job = make_job(image="somebody/else:1", model={"uri": "s3://models/tiny"})
    said = find_forbidden(job, OWNER, STRICT)
    assert said is not None
    assert "spec.image somebody/else:1 is not open" in said
    assert find_forbidden(job, OWNER, replace(STRICT, allowed_images=("somebody/*",))) is None


def made(observed: Observed, settings: OperatorSettings) -> Plan:
    return plan(make_job(image="x:1", suspend=True), observed, NOW, settings, "team-a")


def test_a_job_that_asks_for_more_fails_before_it_has_pods() -> None:
    refused = made(observe(), STRICT)
    assert refused.apply == ()
    assert refused.status is not None
    assert refused.status["phase"] == "Failed"
    (failed,) = (c for c in refused.status["conditions"] if c["type"] == "Failed")
    assert (failed["status"], failed["reason"]) == ("True", REASON)
    assert "/models/tiny" in failed["message"]
    assert "x:1" in failed["message"]
    (event,) = refused.events
    assert (event.reason, event.is_warning) == (REASON, True)
    assert made(observe(None, status=refused.status), STRICT) == Plan()


def test_a_job_that_runs_goes_on_when_less_is_allowed() -> None:
    going = made(observe(ObservedJob("uid-2", active=1, ready=1)), STRICT)
    assert going.status is not None
    assert going.status["phase"] == "Running"
