"""The children as documents."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from kit.inference_jobs import make_job
from pipemax_operator import exit_codes
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.config_map import JOB_FILE, build_config_map
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.manifests.pod import build_pod_template
from pipemax_operator.settings import OperatorSettings
from pipemax_worker import errors
from pipemax_worker.job import CREDENTIAL_VARIABLES, parse_job, resolve_nvme, resolve_place

OWNER = Owner("team-a", "uid-1")
SETTINGS = OperatorSettings()
NVME = {"hostPath": "/mnt/nvme", "size": "1Ti"}


def pod_of(**spec: Any) -> dict[str, Any]:
    document = build_batch_job(make_job(**spec), OWNER, SETTINGS)
    pod: dict[str, Any] = document["spec"]["template"]["spec"]
    return pod


def worker_of(**spec: Any) -> dict[str, Any]:
    worker: dict[str, Any] = pod_of(**spec)["containers"][0]
    return worker


def test_the_worker_reads_the_very_job() -> None:
    job = make_job(suspend=True, kvCache={"host": "1Gi", "nvme": NVME})
    text = build_config_map(job, OWNER, SETTINGS)["data"][JOB_FILE]
    read = parse_job(text, JOB_FILE)
    assert read.spec.suspend is False
    assert read.spec.grace_period_seconds == 60, "as the pod has it"
    own = {"suspend": True, "grace_period_seconds": None}
    assert read.spec.model_copy(update=own) == job.spec


def mounts_of(worker: dict[str, Any]) -> dict[str, str]:
    pairs = pairwise(worker["args"])
    return dict(value.split("=", 1) for flag, value in pairs if flag == "--mount")


def test_the_worker_finds_its_places_where_they_are_mounted(tmp_path: Any) -> None:
    """What the operator mounts and what the worker resolves are the same paths."""
    job = make_job(kvCache={"host": "1Gi", "nvme": NVME})
    worker = worker_of(kvCache={"host": "1Gi", "nvme": NVME})
    mounts = mounts_of(worker)
    paths = {mount["mountPath"] for mount in worker["volumeMounts"]}
    for uri in (job.spec.model.uri, *job.spec.input.all_uris, job.spec.output.uri):
        found = resolve_place(uri, tmp_path, mounts)
        assert any(found == path or found.startswith(f"{path}/") for path in paths), uri
    assert job.spec.kv_cache.nvme is not None
    assert str(resolve_nvme(job.spec.kv_cache.nvme, mounts)) in paths


def test_what_is_only_read_is_mounted_read_only() -> None:
    worker = worker_of(output={"uri": "pvc://data/out"})
    modes = {m["mountPath"]: m.get("readOnly", False) for m in worker["volumeMounts"]}
    assert modes["/mnt/pipemax/host/models/tiny"] is True
    assert modes["/mnt/pipemax/pvc/data"] is False, "the output lies on the claim of the input"


def test_a_pattern_mounts_the_folder_above_it() -> None:
    pod = pod_of(input={"uri": "hostPath:///data/2026-*/x.jsonl"})
    paths = [volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume]
    assert "/data" in paths


def test_gpus_memory_and_shared_memory() -> None:
    worker = worker_of(kvCache={"host": "200Gi"}, parallelism={"stagesPerNode": 4})
    limits = worker["resources"]["limits"]
    assert limits == worker["resources"]["requests"]
    assert limits["nvidia.com/gpu"] == "4"
    assert int(limits["memory"]) == 200 * 2**30 + 8 * 2**30 + 16 * 2**30
    assert "nvidia.com/gpu" not in worker_of(engine={"device": "cpu"})["resources"]["limits"]
    uneven = worker_of(parallelism={"layersPerStage": [15, 17, 17, 15, 16]})
    assert uneven["resources"]["limits"]["nvidia.com/gpu"] == "5"


def test_the_worker_may_do_little() -> None:
    pod = pod_of()
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    context = pod["containers"][0]["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert "initContainers" not in pod


def test_the_grace_leaves_the_worker_time_to_end_by_itself() -> None:
    assert pod_of(gracePeriodSeconds=300)["terminationGracePeriodSeconds"] == 330
    assert pod_of()["terminationGracePeriodSeconds"] == 66


def test_who_says_no_grace_gets_the_time_to_park_all_of_the_host_memory() -> None:
    cache = {"host": "200G", "nvme": {"hostPath": "/mnt/nvme", "size": "1T"}}
    job, settings = make_job(kvCache=cache), replace(SETTINGS, nvme_write_bytes_per_second=2e9)
    pod = build_pod_template(job, OWNER, settings)["spec"]
    assert pod["terminationGracePeriodSeconds"] == 150 + 15
    text = build_config_map(job, OWNER, settings)["data"][JOB_FILE]
    assert parse_job(text, JOB_FILE).spec.derive_grace_seconds() == 150


WITH_KEYS = {"credentials": {"secretRef": {"name": "s3-keys"}}}


def test_credentials_reach_the_worker_by_reference() -> None:
    pod = pod_of(**WITH_KEYS)
    (volume,) = [v for v in pod["volumes"] if v["name"] == "credentials"]
    assert volume["secret"] == {"secretName": "s3-keys"}
    environment = {e["name"]: e for e in pod["containers"][0]["env"]}
    assert environment["PIPEMAX_CREDENTIALS_FOLDER"]["value"] == "/etc/pipemax-credentials"
    for name in CREDENTIAL_VARIABLES:
        reference = {"name": "s3-keys", "key": name, "optional": True}
        assert environment[name]["valueFrom"] == {"secretKeyRef": reference}


def test_a_secret_sets_no_variable_but_those_of_stores_and_hubs() -> None:
    """``envFrom`` would take all its keys, ``LD_PRELOAD`` and ``PYTHONSTARTUP`` among them."""
    with_keys = pod_of(**WITH_KEYS, kvCache={"host": "1Gi", "nvme": NVME})
    for container in (*with_keys["containers"], *with_keys["initContainers"]):
        assert "envFrom" not in container
    (as_root,) = with_keys["initContainers"]
    assert "s3-keys" not in str(as_root)
    told = {e["name"] for e in with_keys["containers"][0]["env"] if "secretKeyRef" in str(e)}
    assert told == set(CREDENTIAL_VARIABLES)
    own = {e["name"] for e in worker_of()["env"]}
    assert not told & own, "nor one of those that the operator sets"
    paths = [m["mountPath"] for m in with_keys["containers"][0]["volumeMounts"]]
    assert paths.count("/etc/pipemax-credentials") == 1
    assert not [p for p in paths if p.startswith("/etc/pipemax-credentials/")]


def test_the_administrators_variables_win_over_a_secrets() -> None:
    settings = replace(SETTINGS, environment={"HF_ENDPOINT": "https://hub.internal"})
    pod = build_pod_template(make_job(**WITH_KEYS), OWNER, settings)["spec"]
    variables = [e for e in pod["containers"][0]["env"] if e["name"] == "HF_ENDPOINT"]
    assert variables == [{"name": "HF_ENDPOINT", "value": "https://hub.internal"}], "and once"


@pytest.mark.parametrize("error", errors.PipemaxError.__subclasses__())
def test_every_exit_code_has_a_rule(error: type[errors.PipemaxError]) -> None:
    """Permanent ones end the job, a stop does not count, the rest is tried again."""
    final = (*exit_codes.PERMANENT, *exit_codes.NOT_FOUND)
    known = (*final, exit_codes.STOPPED, *exit_codes.NODE_FAULTS, 70)
    assert error.exit_code in known, error
    assert error.exit_code != exit_codes.NODE_RESTARTED, "that is not counted"


def test_failure_rules() -> None:
    rules = build_batch_job(make_job(), OWNER, SETTINGS)["spec"]["podFailurePolicy"]["rules"]
    actions = [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in rules]
    assert actions == [
        ("Ignore", None),
        ("Ignore", [72, 75, 255]),
        ("FailJob", [64, 65, 78]),
        ("FailIndex", [66]),
    ]


def test_settings_come_from_the_chart() -> None:
    text = '{"image": "worker:1", "command": ["python3", "-m", "x"]}'
    settings = OperatorSettings.from_environment({"PIPEMAX_WORKER_SETTINGS": text})
    assert (settings.image, settings.command) == ("worker:1", ("python3", "-m", "x"))
    with pytest.raises(ValueError, match="unknown fields imgae"):
        OperatorSettings.from_environment({"PIPEMAX_WORKER_SETTINGS": '{"imgae": "x"}'})
    with pytest.raises(ValueError, match="fields without a value allowed_images"):
        OperatorSettings.from_environment({"PIPEMAX_WORKER_SETTINGS": '{"allowed_images": null}'})
