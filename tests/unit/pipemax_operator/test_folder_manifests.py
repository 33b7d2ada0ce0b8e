"""Folders on the node: who makes them, who sees how much of them, who may write."""

from __future__ import annotations

from typing import Any

import pytest
from kit.inference_jobs import make_job
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.manifests.pod import build_pod_template
from pipemax_operator.settings import OperatorSettings
from pipemax_worker.cli.main import build_parser
from pipemax_worker.runner.job_folder import KV_NAME

OWNER = Owner("team-a", "uid-1")
SETTINGS = OperatorSettings(image="ours:1", run_as_user=2000)
NVME = {"hostPath": "/mnt/nvme", "size": "1Ti"}
HOST = "/mnt/pipemax/host"
NVME_MOUNT = "/mnt/pipemax/nvme"


def pod_of(**spec: Any) -> dict[str, Any]:
    pod: dict[str, Any] = build_pod_template(make_job(**spec), OWNER, SETTINGS)["spec"]
    return pod


def mounts_of(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


def folder_container(**spec: Any) -> dict[str, Any]:
    (container,) = pod_of(**spec)["initContainers"]
    found: dict[str, Any] = container
    return found


def test_a_worker_sees_the_folder_of_its_own_job_alone() -> None:
    pod = pod_of(kvCache={"nvme": NVME})
    mount = mounts_of(pod["containers"][0])[NVME_MOUNT]
    assert mount["subPath"] == f"uid-1/{KV_NAME}"
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert volume["hostPath"] == {"path": "/mnt/nvme", "type": "DirectoryOrCreate"}


def test_one_container_alone_makes_the_folder() -> None:
    container = folder_container(kvCache={"nvme": NVME})
    options = build_parser().parse_args(container["args"])
    assert (options.uid, options.namespace, options.name) == ("uid-1", "team-a", "reviews")
    assert (str(options.nvme), options.user) == (NVME_MOUNT, 2000)
    assert mounts_of(container) == {NVME_MOUNT: {"name": "nvme", "mountPath": NVME_MOUNT}}


def test_it_is_root_with_little_power_and_never_the_jobs_own_image() -> None:
    container = folder_container(kvCache={"nvme": NVME}, image="theirs:1")
    assert container["image"] == "ours:1"
    context = container["securityContext"]
    assert (context["runAsUser"], context["allowPrivilegeEscalation"]) == (0, False)
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE"]}
    assert context["readOnlyRootFilesystem"] is True
    assert pod_of(kvCache={"nvme": NVME}, image="theirs:1")["containers"][0]["image"] == "theirs:1"


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ({"output": {"uri": "hostPath:///results/reviews"}}, f"{HOST}/results/reviews"),
        (
            {"model": {"uri": "org/model", "cacheDir": "hostPath:///var/models"}},
            f"{HOST}/var/models",
        ),
    ],
)
def test_what_the_kubelet_makes_is_handed_over(spec: dict[str, Any], folder: str) -> None:
    pod = pod_of(**spec)
    (container,) = pod["initContainers"]
    options = build_parser().parse_args(container["args"])
    assert [str(path) for path in options.hand_over] == [folder]
    assert options.nvme is None
    for one in (container, pod["containers"][0]):
        assert "readOnly" not in mounts_of(one)[folder]
    paths = {
        v["hostPath"]["path"]: v["hostPath"]["type"] for v in pod["volumes"] if "hostPath" in v
    }
    assert paths[folder.removeprefix(HOST)] == "DirectoryOrCreate"


@pytest.mark.parametrize("nvme_path", ["/mnt/nvme", "/mnt/nvme/", "/mnt", "/mnt/nvme/kv"])
@pytest.mark.parametrize(
    "spec",
    [
        {"output": {"uri": "hostPath:///mnt/nvme"}},
        {"model": {"uri": "hostPath:///mnt/nvme"}},
        {"model": {"uri": "org/model", "cacheDir": "hostPath:///mnt/nvme"}},
        {"input": {"uri": "hostPath:///mnt/nvme/*.jsonl"}},
    ],
)
def test_the_nvme_folder_may_be_another_place_too(spec: dict[str, Any], nvme_path: str) -> None:
    """The API server refuses a path that is mounted twice."""
    pod = pod_of(kvCache={"nvme": {**NVME, "hostPath": nvme_path}}, **spec)
    for container in (*pod["initContainers"], *pod["containers"]):
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
    worker = mounts_of(pod["containers"][0])
    assert "subPath" not in worker[f"{HOST}/mnt/nvme"], "the other place is seen whole"
    assert worker[NVME_MOUNT]["subPath"] == f"uid-1/{KV_NAME}"


def test_what_is_only_read_is_handed_to_nobody() -> None:
    assert "initContainers" not in pod_of(input={"uri": "hostPath:///data/*.jsonl"})
    claim = {"persistentVolumeClaim": {"claimName": "nvme"}, "size": "1Gi"}
    assert "initContainers" not in pod_of(kvCache={"nvme": claim})
    assert "initContainers" not in pod_of(kvCache={"nvme": {"emptyDir": {}, "size": "1Gi"}})


def test_a_model_cache_on_a_claim_is_mounted_and_named() -> None:
    pod = pod_of(model={"uri": "org/model", "cacheDir": "pvc://models/cache"})
    worker = pod["containers"][0]
    assert "readOnly" not in mounts_of(worker)["/mnt/pipemax/pvc/models"]
    assert "models=/mnt/pipemax/pvc/models" in worker["args"]


def test_a_claim_with_several_places_on_it_is_mounted_once() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "results"}, "size": "1Gi"}
    model = {"uri": "pvc://results/model", "cacheDir": "pvc://results/cache"}
    worker = pod_of(kvCache={"nvme": claim}, model=model)["containers"][0]
    paths = [mount["mountPath"] for mount in worker["volumeMounts"]]
    assert len(paths) == len(set(paths))
    assert "readOnly" not in mounts_of(worker)["/mnt/pipemax/pvc/results"]
