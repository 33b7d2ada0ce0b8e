"""A job that an older operator started goes on under this one, and its worker image with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kit.inference_jobs import NOW
from kit.previous_version import load_child, load_crd, load_stored_job
from pipemax_operator.crd import build_crd
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.config_map import JOB_FILE, build_config_map
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.observation import observe
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings
from pipemax_worker.cli.main import build_parser
from pipemax_worker.job import InferenceJob, parse_job, resolve_nvme

Document = dict[str, Any]

SETTINGS = OperatorSettings()
STATUS: Document = {
    "phase": "Running",
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "GpuLost",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-22T11:00:00Z",
            "reason": "GpuLost",
            "message": "node node-9 is avoided: GPU GPU-1 is lost; pods go to other nodes",
        }
    ],
    "attempt": 2,
    "startTime": "2026-11-22T10:00:00Z",
    "avoidedNodes": [{"node": "node-9", "message": "GPU GPU-1 is lost"}],
    "shards": {"active": 2, "ready": 2, "succeeded": 0, "failed": 0},
}


def schema_of(crd: Document) -> Document:
    (version,) = crd["spec"]["versions"]
    found: Document = version["schema"]["openAPIV3Schema"]
    return found


# --- the CRD

_LOWER_IS_NARROWER = ("maxLength", "maximum", "maxItems", "maxProperties")
_HIGHER_IS_NARROWER = ("minLength", "minimum", "minItems", "minProperties")


def find_narrowings(old: Document, new: Document, path: str = "") -> Iterator[str]:
    """Why an object that ``old`` takes may be none that ``new`` takes, or mean another thing."""
    for key in ("type", "pattern", "format", "x-kubernetes-int-or-string"):
        if key in new and new.get(key) != old.get(key):
            yield f"{path}: {key} {old.get(key)} -> {new.get(key)}"
    for key in (*_LOWER_IS_NARROWER, *_HIGHER_IS_NARROWER):
        sign = 1 if key in _LOWER_IS_NARROWER else -1
        if key in new and (key not in old or sign * new[key] < sign * old[key]):
            yield f"{path}: {key} {old.get(key)} -> {new[key]}"
    if "enum" in new and not ("enum" in old and set(old["enum"]) <= set(new["enum"])):
        yield f"{path}: enum {old.get('enum')} -> {new['enum']}"
    if "default" in old and "default" in new and old["default"] != new["default"]:
        yield f"{path}: default {old['default']} -> {new['default']}"
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{path}.{name}: required"
    for name, child in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            yield f"{path}.{name}: gone"
        else:
            yield from find_narrowings(child, new["properties"][name], f"{path}.{name}")
    if "items" in old:
        yield from find_narrowings(old["items"], new["items"], f"{path}[]")


def test_the_schema_takes_every_job_that_its_predecessor_took() -> None:
    assert list(find_narrowings(schema_of(load_crd()), schema_of(build_crd()))) == []


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("nodes", {"maximum": 1}),
        ("nodes", {"minimum": 2}),
        ("nodes", {"type": "string"}),
        ("nodes", {"default": 2}),
        ("nodes", {"enum": [1, 2]}),
        ("nodes", None),
    ],
)
def test_a_narrower_schema_would_be_seen(field: str, change: Document | None) -> None:
    narrower = copy.deepcopy(schema_of(build_crd()))
    fields = narrower["properties"]["spec"]["properties"]["parallelism"]["properties"]
    if change is None:
        del fields[field]
    else:
        fields[field] |= change
    (found,) = find_narrowings(schema_of(load_crd()), narrower)
    assert found.startswith(f".spec.parallelism.{field}")


def test_versions_and_names_stay() -> None:
    old, new = load_crd()["spec"], build_crd()["spec"]
    assert old["names"] == new["names"]
    assert [version["name"] for version in old["versions"]] == ["v1alpha1"]
    assert [version["name"] for version in new["versions"]] == ["v1alpha1"]


# --- the operator


def stored_job() -> Document:
    document = load_stored_job()
    created = {"uid": "uid-1", "generation": 1, "creationTimestamp": "2026-11-22T09:59:00Z"}
    return {**document, "metadata": {**document["metadata"], **created}, "status": STATUS}


def child() -> Document:
    document = load_child()
    metadata = {**document["metadata"], "uid": "uid-2", "resourceVersion": "7"}
    # Kueue has admitted it.
    return {**document, "metadata": metadata, "spec": {**document["spec"], "suspend": False}}


def look(document: Document) -> Plan:
    job = InferenceJob.model_validate(document)
    observed = observe(document, {**child(), "status": {"active": 2, "ready": 2}}, (), {})
    return plan(job, observed, NOW, SETTINGS, "team-a")


def test_a_job_of_an_older_operator_is_taken_over_as_it_is() -> None:
    made = look(stored_job())
    assert (made.apply, made.child_changes, made.workload_changes) == ((), {}, {})
    assert (made.delete_child, made.delete_self, made.release, made.renew) == (
        *(False, False),
        *((), ()),
    )
    assert made.status is not None
    assert made.status["phase"] == "Running"
    assert made.status["startTime"] == STATUS["startTime"]
    assert made.status["avoidedNodes"] == STATUS["avoidedNodes"]
    jsonschema.validate(made.status, schema_of(build_crd())["properties"]["status"])


def test_its_pods_keep_the_secret_as_it_was_given_to_them() -> None:
    """All keys were variables then. A Job's pods cannot be changed: it goes on, and new jobs get
    the named ones alone."""
    (worker,) = child()["spec"]["template"]["spec"]["containers"]
    assert worker["envFrom"] == [{"secretRef": {"name": "hub"}}]
    document = stored_job()
    document["metadata"]["generation"] = 2
    made = look(document)
    assert [one["kind"] for one in made.apply] == ["ConfigMap"]
    assert made.child_changes == {}
    job = InferenceJob.model_validate(document)
    anew = build_batch_job(job, Owner("team-a", "uid-1"), SETTINGS)
    assert "envFrom" not in anew["spec"]["template"]["spec"]["containers"][0]


def test_its_workers_find_their_nvme_folder_with_the_old_image_and_with_a_new_one() -> None:
    """The pod template stays as it was: arguments and mounts of the older operator. A worker that
    is told of no mount for NVMe alone looks below the one for all folders of the node."""
    pod = child()["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    arguments = worker["args"]
    mounts = dict(
        arguments[position + 1].split("=", 1)
        for position, argument in enumerate(arguments)
        if argument == "--mount"
    )
    nvme = InferenceJob.model_validate(load_stored_job()).spec.kv_cache.nvme
    assert nvme is not None
    (mounted,) = (one for one in worker["volumeMounts"] if one["name"] == "nvme")
    assert resolve_nvme(nvme, mounts) == Path(mounted["mountPath"])
    assert mounted["subPath"] == "uid-1/kv"


def test_a_newer_image_takes_the_arguments_of_its_containers() -> None:
    pod = child()["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["command"] == ["pipemax"]
        build_parser().parse_args(container["args"])


def test_a_change_writes_no_field_that_the_older_worker_does_not_know() -> None:
    """The API server has filled in the defaults of the newer CRD by then: here of one field."""
    older = closed(schema_of(load_crd()))
    del older["properties"]["spec"]["properties"]["engine"]["properties"]["prefixSharing"]
    document = stored_job()
    del document["spec"]["engine"]["prefixSharing"]
    document["metadata"]["generation"] = 2
    document["spec"]["parallelism"]["nodes"] = 3
    filled_in = with_defaults(document, schema_of(build_crd()))
    assert filled_in["spec"]["engine"]["prefixSharing"] is True
    made = look(filled_in)
    (config_map,) = made.apply
    written = yaml.safe_load(config_map["data"][JOB_FILE])
    jsonschema.Draft4Validator(older).validate(written)  # with exclusiveMinimum as Kubernetes' own
    assert written["spec"]["parallelism"]["nodes"] == 3
    assert made.child_changes["parallelism"] == 3


def test_the_job_file_says_the_same_without_its_defaults() -> None:
    job = InferenceJob.model_validate(load_stored_job())
    written = build_config_map(job, Owner("team-a", "uid-1"), SETTINGS)["data"][JOB_FILE]
    assert parse_job(written, "job.yaml") == job
    assert "gpuResourceName" not in written


def with_defaults(node: Any, schema: Document) -> Any:
    """As the API server does when it reads an object."""
    if isinstance(node, list):
        return [with_defaults(item, schema.get("items", {})) for item in node]
    if not isinstance(node, dict):
        return node
    properties = schema.get("properties", {})
    filled = {name: child["default"] for name, child in properties.items() if "default" in child}
    merged = {**copy.deepcopy(filled), **node}
    return {name: with_defaults(value, properties.get(name, {})) for name, value in merged.items()}


def closed(schema: Document) -> Document:
    """``schema``, with every field refused that it does not name: as the worker reads a file."""
    result = {key: value for key, value in schema.items() if key != "required"}
    if "properties" in schema:
        result["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
        is_open = result["properties"].keys() == {"name"}  # metadata: the API server's own
        result["additionalProperties"] = is_open or schema.get("additionalProperties", False)
    if "items" in schema:
        result["items"] = closed(schema["items"])
    return result
