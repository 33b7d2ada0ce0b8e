"""What the API server makes of an InferenceJob: defaults, refusals, columns, what may change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.settings import OperatorSettings
from pipemax_worker.errors import JobFileError
from pipemax_worker.job import InferenceJob, parse_job

Document = dict[str, Any]

JOB: Document = {
    "apiVersion": "pipemax.dev/v1alpha1",
    "kind": "InferenceJob",
    "metadata": {"name": "reviews"},
    "spec": {
        "model": {"uri": "hostPath:///models/tiny"},
        "input": {"uri": "pvc://data/*.jsonl"},
        "output": {"uri": "s3://results/reviews/"},
    },
}


def job(changes: Mapping[str, Any]) -> Document:
    """The job above; ``changes``: dotted field of the spec -> value, None takes it away."""
    document = copy.deepcopy(JOB)
    for field, value in changes.items():
        node = document["spec"]
        *parents, last = field.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return document


def create(plane: ControlPlane, namespace: str, document: Document, *flags: str) -> str:
    """kubectl's words, whether the API server takes it or not."""
    return plane.kubectl(
        *("apply", "-n", namespace, "-f", "-", *flags),
        stdin=yaml.safe_dump(document),
        check=False,
    )


def test_a_minimal_job_gets_its_defaults(control_plane: ControlPlane, namespace: str) -> None:
    assert "created" in create(control_plane, namespace, JOB)
    stored = control_plane.get("inferencejob", "reviews", "-n", namespace)
    expected = InferenceJob.model_validate(JOB).spec
    found = InferenceJob.model_validate(stored).spec
    assert found == expected
    assert stored["spec"]["kvCache"] == {"host": "4Gi"}
    assert stored["spec"]["engine"]["policy"] == "fused"


def test_short_names_and_columns(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, JOB)
    header, row = control_plane.kubectl("get", "ij", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "DONE", "TOKENS/S", "ETA", "AGE"]
    assert row.startswith("reviews")
    uri = JOB["spec"]["model"]["uri"]
    for value, found in ((uri, row), ("another", "")):
        selector = f"--field-selector=spec.model.uri={value}"
        shown = control_plane.kubectl("get", "ij", "-n", namespace, selector, "--no-headers")
        assert shown.split()[:1] == found.split()[:1]


NVME = {"hostPath": "/mnt/nvme", "size": "1Ti"}


def test_pods_whose_nvme_folder_is_another_place_too(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A path that is mounted twice would be refused, with the job waiting for ever."""
    shared = {"kvCache.nvme": NVME, "output.uri": "hostPath:///mnt/nvme"}
    asked = InferenceJob.model_validate(job(shared))
    child = build_batch_job(asked, Owner(namespace, "uid-1"), OperatorSettings())
    assert "created" in create(control_plane, namespace, child, "--dry-run=server")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "spec.model"),
    "unknown field": ({"modle": "x"}, "modle"),
    "wrong type": ({"parallelism.nodes": "4"}, "spec.parallelism.nodes"),
    "too few nodes": ({"parallelism.nodes": 0}, "spec.parallelism.nodes"),
    "unknown policy": ({"engine.policy": "fast"}, "spec.engine.policy"),
    "quantity": ({"kvCache.host": "200 gigs"}, "spec.kvCache.host"),
    "duration": ({"deadline": "soon"}, "spec.deadline"),
    "uri and uris": ({"input.uris": ["pvc://data/a"]}, "spec.input"),
    "no input": ({"input.uri": None}, "spec.input"),
    "the same input twice": (
        {"input.uri": None, "input.uris": ["pvc://data/a", "pvc://data/a"]},
        "spec.input.uris",
    ),
    "unknown scheme": ({"input.uri": "ftp://host/file"}, "spec.input.uri"),
    "relative host path": ({"input.uri": "hostPath://data/file"}, "spec.input.uri"),
    "parent folder": ({"input.uri": "hostPath:///data/../etc"}, "spec.input.uri"),
    "space": ({"input.uri": " pvc://data/x"}, "spec.input.uri"),
    "bucket": ({"output.uri": "s3://B/results"}, "spec.output.uri"),
    "wildcard in a folder": ({"output.uri": "s3://results/*"}, "spec.output.uri"),
    "output is the input": ({"output.uri": "pvc://data/*.jsonl"}, "spec.output.uri"),
    "nodes without a shared store": (
        {"parallelism.nodes": 2, "output.uri": "hostPath:///out"},
        "spec.output.uri",
    ),
    "replacing a worker whose output is on the lost node": (
        {"nodeLoss.policy": "Replace", "output.uri": "hostPath:///out"},
        "spec.nodeLoss.policy",
    ),
    "unknown policy for lost nodes": ({"nodeLoss.policy": "Retry"}, "spec.nodeLoss.policy"),
    "layers for other stages": (
        {"parallelism.stagesPerNode": 4, "parallelism.layersPerStage": [16, 17, 15]},
        "spec.parallelism.layersPerStage",
    ),
    "a stage without layers": (
        {"parallelism.layersPerStage": [16, 0, 16]},
        "spec.parallelism.layersPerStage",
    ),
    "minTokens above maxTokens": (
        {"sampling.minTokens": 9, "sampling.maxTokens": 8},
        "spec.sampling.minTokens",
    ),
    "revision without hub id": ({"model.revision": "main"}, "spec.model.revision"),
    "alias twice": ({"model.aliases": ["a", "a"]}, "spec.model.aliases"),
    "alias is the name": ({"model.aliases": ["a"], "model.name": "a"}, "spec.model.aliases"),
    "two kinds of nvme": ({"kvCache.nvme": {**NVME, "emptyDir": {}}}, "spec.kvCache.nvme"),
    "no kind of nvme": ({"kvCache.nvme": {"size": "1Ti"}}, "spec.kvCache.nvme"),
    "nvme without host": ({"kvCache.nvme": NVME, "kvCache.host": 0}, "spec.kvCache.host"),
    "nvme with 0Gi": ({"kvCache.nvme": NVME, "kvCache.host": "0Gi"}, "spec.kvCache.host"),
    "toleration with a value": (
        {"scheduling.tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "spec.scheduling.tolerations",
    ),
    "toleration without key": ({"scheduling.tolerations": [{}]}, "spec.scheduling.tolerations"),
    "toleration seconds": (
        {"scheduling.tolerations": [{"key": "a", "tolerationSeconds": 1}]},
        "spec.scheduling.tolerations",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_api_server_refuses_what_pydantic_refuses(
    control_plane: ControlPlane, namespace: str, case: str
) -> None:
    changes, field = REFUSED[case]
    document = job(changes)
    with pytest.raises(JobFileError):
        parse_job(yaml.safe_dump(document), "job.yaml")
    said = create(control_plane, namespace, document, "--dry-run=server")
    assert field in said, said
    assert "created" not in said


ACCEPTED: dict[str, dict[str, Any]] = {
    "several nodes on s3": {"parallelism.nodes": 4},
    "several nodes on a shared path": {
        "parallelism.nodes": 4,
        "output.uri": "hostPath:///nfs/out",
        "output.shared": True,
    },
    "lost workers replaced": {
        "nodeLoss.policy": "Replace",
        "nodeLoss.replaceAfter": "90s",
        "output.uri": "hostPath:///nfs/out",
        "output.shared": True,
    },
    "lost nodes waited for": {"nodeLoss.policy": "Wait", "output.uri": "hostPath:///out"},
    "layers of each stage": {
        "parallelism.stagesPerNode": 4,
        "parallelism.layersPerStage": [15, 17, 17, 15],
    },
    "hub id": {"model.uri": "organisation/name", "model.revision": "main"},
    "nvme": {"kvCache.nvme": NVME, "kvCache.host": "200Gi"},
    "nvme on a claim": {
        "kvCache.nvme": {"persistentVolumeClaim": {"claimName": "scratch"}, "size": "1Ti"}
    },
    "numbers for quantities": {"kvCache.host": 1024, "deadline": 3600},
    "several inputs": {"input.uri": None, "input.uris": ["s3://data/a.jsonl", "pvc://c/b.jsonl"]},
    "toleration": {"scheduling.tolerations": [{"operator": "Exists"}]},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_the_api_server_takes_what_pydantic_takes(
    control_plane: ControlPlane, namespace: str, case: str
) -> None:
    document = job(ACCEPTED[case])
    expected = parse_job(yaml.safe_dump(document), "job.yaml").spec
    assert "created" in create(control_plane, namespace, document)
    stored = control_plane.get("inferencejob", "reviews", "-n", namespace)
    assert InferenceJob.model_validate(stored).spec == expected


def test_what_a_record_depends_on_cannot_change(
    control_plane: ControlPlane, namespace: str
) -> None:
    create(control_plane, namespace, JOB)
    for changes, field in (
        ({"model.uri": "hostPath:///models/other"}, "spec.model"),
        ({"sampling.temperature": 0.5}, "spec.sampling"),
        ({"output.uri": "s3://results/other/"}, "spec.output"),
        ({"resumeFrom": "s3://results/earlier/"}, "spec.resumeFrom"),
        ({"parallelism.stagesPerNode": 4}, "spec.parallelism.stagesPerNode"),
        ({"parallelism.layersPerStage": [9, 7]}, "spec.parallelism.layersPerStage"),
    ):
        said = create(control_plane, namespace, job(changes))
        assert f"{field} cannot be changed" in said, said
    changes = {
        "suspend": True,
        "deadline": "3h",
        "startDeadline": "1h",
        "ttlSecondsAfterFinished": 60,
        "parallelism.nodes": 3,
        "nodeLoss": {"policy": "Wait", "replaceAfter": "1h"},
        "errorPolicy.maxFailedCount": 9,
    }
    said = create(control_plane, namespace, job(changes))
    assert "configured" in said
