"""The worker pod: one pipeline over the GPUs of one node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipemax_worker.job import (
    CREDENTIAL_VARIABLES,
    HOST_PATH_MOUNT,
    MOUNT_ROOT,
    NVME_HOST_PATH_MOUNT,
    InferenceJob,
    PlaceKind,
    claim_mount_path,
    parse_place,
)

from pipemax_operator import names
from pipemax_operator.manifests.folder_container import build_folder_container
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.manifests.volumes import (
    CREDENTIALS_FOLDER,
    JOB_FOLDER,
    NVME_MOUNT,
    Volume,
    build_volumes,
    job_file_path,
)
from pipemax_operator.settings import OperatorSettings

DEFAULT_GPUS_PER_NODE = 8
CONTAINER = "worker"
TERMINATION_LOG = "/dev/termination-log"


def build_pod_template(
    job: InferenceJob, owner: Owner, settings: OperatorSettings
) -> dict[str, Any]:
    """The pod template of the child Job. Restarts are the Job's, never the kubelet's."""
    volumes = build_volumes(job, owner, settings)
    scheduling = job.spec.scheduling
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_period_seconds(job, settings),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_user,
            "fsGroup": settings.run_as_user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*_tolerations(job)],
        "containers": [_worker(job, volumes, settings)],
        "volumes": [volume.as_volume() for volume in volumes] + [*settings.extra_volumes],
    }
    if (init := build_folder_container(job, owner, volumes, settings)) is not None:
        spec["initContainers"] = [init]
    if scheduling.node_selector:
        spec["nodeSelector"] = dict(scheduling.node_selector)
    if scheduling.priority_class_name:
        spec["priorityClassName"] = scheduling.priority_class_name
    if scheduling.runtime_class_name:
        spec["runtimeClassName"] = scheduling.runtime_class_name
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    gpus = num_gpus(job, settings)
    if settings.gpu_affinity and gpus:
        spec["affinity"] = _gpu_affinity(gpus)
    if job.spec.engine.device != "cpu":
        spec["schedulingGates"] = [{"name": names.PLACEMENT_GATE}]
    labels = {**job.metadata.labels, **names.child_labels(job.metadata.name)}
    return {"metadata": {"labels": labels}, "spec": spec}


def num_gpus(job: InferenceJob, settings: OperatorSettings) -> int:
    """GPUs a pod asks for: one a stage; none where the job computes on the CPU, unless the settings
    reserve them all the same."""
    if job.spec.engine.device == "cpu":
        return settings.gpus_for_cpu_jobs
    return job.spec.parallelism.num_stages or DEFAULT_GPUS_PER_NODE


def grace_period_seconds(job: InferenceJob, settings: OperatorSettings) -> int:
    """What the spec says or parking takes, and a margin in which the worker ends by itself before
    it is killed."""
    seconds = job.spec.derive_grace_seconds(settings.nvme_write_bytes_per_second)
    return seconds + max(5, seconds // 10)


def _worker(
    job: InferenceJob, volumes: tuple[Volume, ...], settings: OperatorSettings
) -> dict[str, Any]:
    port = settings.metrics_port
    return {
        "name": CONTAINER,
        "image": job.spec.image or settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [*settings.command],
        "args": [*_arguments(job, port)],
        "env": [*_environment(job, settings)],
        "ports": [{"name": "metrics", "containerPort": port}],
        "resources": _resources(job, settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "metrics"},
            "periodSeconds": 5,
        },
        "volumeMounts": [v.as_mount() for v in volumes] + [*settings.extra_volume_mounts],
    }


def _arguments(job: InferenceJob, port: int) -> Iterator[str]:
    yield from ("run", job_file_path(), "--port", str(port), "--address", "0.0.0.0")
    yield from ("--mount", f"{HOST_PATH_MOUNT}={MOUNT_ROOT}/host")
    model = job.spec.model
    uris = (model.uri, model.cache_dir, *job.spec.input.all_uris, job.spec.output.uri)
    places = [parse_place(uri) for uri in (*uris, job.spec.resume_from) if uri]
    claims = {place.owner for place in places if place.kind is PlaceKind.CLAIM}
    nvme = job.spec.kv_cache.nvme
    if nvme is not None and nvme.persistent_volume_claim is not None:
        claims.add(nvme.persistent_volume_claim.claim_name)
    if nvme is not None and nvme.host_path is not None:
        yield from ("--mount", f"{NVME_HOST_PATH_MOUNT}={NVME_MOUNT}")
    for claim in sorted(claims):
        yield from ("--mount", f"{claim}={claim_mount_path(claim)}")


def _environment(job: InferenceJob, settings: OperatorSettings) -> Iterator[dict[str, Any]]:
    def field(name: str, path: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    yield {"name": "PIPEMAX_TERMINATION_LOG", "value": TERMINATION_LOG}
    yield field("PIPEMAX_NODE_NAME", "spec.nodeName")
    yield field("PIPEMAX_POD_NAME", "metadata.name")
    yield {"name": "HOME", "value": "/tmp"}
    if job.spec.engine.device != "cpu":
        yield {"name": "PIPEMAX_EXPECTED_GPUS", "value": str(num_gpus(job, settings))}
    nvme = job.spec.kv_cache.nvme
    if nvme is not None and nvme.empty_dir is not None:
        yield {"name": "TMPDIR", "value": NVME_MOUNT}  # where a tier without a folder goes
    if job.spec.credentials is not None:
        yield {"name": "PIPEMAX_CREDENTIALS_FOLDER", "value": CREDENTIALS_FOLDER}
        yield from _credentials(job.spec.credentials.secret_ref.name, settings)
    for name, value in settings.environment.items():
        yield {"name": name, "value": value}


def _credentials(secret: str, settings: OperatorSettings) -> Iterator[dict[str, Any]]:
    """By name, never all keys of the Secret: some variables make a program run code, and who may
    write a Secret need not be who may start one. What the chart sets is the administrator's."""
    for name in CREDENTIAL_VARIABLES:
        if name not in settings.environment:
            reference = {"name": secret, "key": name, "optional": True}
            yield {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _resources(job: InferenceJob, settings: OperatorSettings) -> dict[str, Any]:
    """Request = limit: pinned host memory is never given back, so it must be there."""
    memory = job.spec.kv_cache.host + settings.shared_memory_bytes + settings.memory_overhead_bytes
    amounts: dict[str, str] = {"memory": str(memory)}
    if gpus := num_gpus(job, settings):
        amounts[job.spec.scheduling.gpu_resource_name] = str(gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _tolerations(job: InferenceJob) -> Iterator[dict[str, Any]]:
    for toleration in job.spec.scheduling.tolerations:
        yield toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
    # A worker that is cut off for less goes on as if nothing had happened; Kubernetes' default
    # would be five minutes.
    seconds = {"tolerationSeconds": job.spec.node_loss.replace_after}
    for taint in ("unreachable", "not-ready"):
        yield {
            "key": f"node.kubernetes.io/{taint}",
            "operator": "Exists",
            "effect": "NoExecute",
            **(seconds if job.spec.replaces_lost_workers else {}),
        }


def _gpu_affinity(num_gpus: int) -> dict[str, Any]:
    """Nodes that are known (by GPU feature discovery) to have fewer GPUs are not tried."""
    expression = {"key": "nvidia.com/gpu.count", "operator": "Gt", "values": [str(num_gpus - 1)]}
    unknown = {"key": "nvidia.com/gpu.count", "operator": "DoesNotExist"}
    terms = [{"matchExpressions": [expression]}, {"matchExpressions": [unknown]}]
    required = {"nodeSelectorTerms": terms}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


__all__ = ["JOB_FOLDER", "build_pod_template", "grace_period_seconds", "num_gpus"]
