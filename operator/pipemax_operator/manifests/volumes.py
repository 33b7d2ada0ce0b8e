"""Volumes of a worker pod: what the job's places need, NVMe, shared memory, temporary files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipemax_worker.job import InferenceJob, PlaceKind, claim_mount_path, mount_path, parse_place

from pipemax_operator.manifests.config_map import JOB_FILE
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.settings import OperatorSettings

JOB_FOLDER = "/etc/pipemax"
CREDENTIALS_FOLDER = "/etc/pipemax-credentials"
NVME_MOUNT = "/mnt/pipemax/nvme"
NVME_VOLUME = "nvme"
KV_FOLDER = "kv"
"""The worker's own in a job's folder on a node's disk; root's container makes both."""

_WILDCARD = re.compile(r"[*?\[]")


class Volume(NamedTuple):
    """A volume and where it is mounted. ``sub_path``: all of it that the worker sees.

    ``is_new``: a folder of the node, made by the kubelet if it is not there; root's then.
    """

    name: str
    source: dict[str, Any]
    path: str
    read_only: bool = False
    sub_path: str = ""
    is_new: bool = False

    def as_volume(self) -> dict[str, Any]:
        return {"name": self.name, **self.source}

    def as_mount(self) -> dict[str, Any]:
        mount: dict[str, Any] = {"name": self.name, "mountPath": self.path}
        if self.sub_path:
            mount["subPath"] = self.sub_path
        return {**mount, "readOnly": True} if self.read_only else mount


def build_volumes(
    job: InferenceJob, owner: Owner, settings: OperatorSettings
) -> tuple[Volume, ...]:
    """All of them, each path once; a place that is written makes its volume writable."""
    volumes = [
        Volume("job", {"configMap": {"name": job.metadata.name}}, JOB_FOLDER, read_only=True),
        Volume("tmp", {"emptyDir": {}}, "/tmp"),
        Volume(
            "shm",
            {"emptyDir": {"medium": "Memory", "sizeLimit": str(settings.shared_memory_bytes)}},
            "/dev/shm",
        ),
        *_place_volumes(job),
        *_nvme_volume(job, owner),
    ]
    if job.spec.credentials is not None:
        source = {"secret": {"secretName": job.spec.credentials.secret_ref.name}}
        volumes.append(Volume("credentials", source, CREDENTIALS_FOLDER, read_only=True))
    return tuple(volumes)


def job_file_path() -> str:
    return f"{JOB_FOLDER}/{JOB_FILE}"


def _place_volumes(job: InferenceJob) -> Iterator[Volume]:
    spec = job.spec
    read = [uri for uri in (spec.model.uri, *spec.input.all_uris, spec.resume_from) if uri]
    written = [uri for uri in (spec.output.uri, spec.model.cache_dir, _nvme_claim(job)) if uri]
    sources: dict[str, tuple[dict[str, Any], bool]] = {}
    for uri, is_written in (*((uri, False) for uri in read), *((uri, True) for uri in written)):
        found = _source_of(uri, is_written)
        if found is not None:
            path, source = found
            _, was_written = sources.get(path, ({}, False))
            sources[path] = (source, is_written or was_written)
    for number, (path, (source, is_written)) in enumerate(sorted(sources.items())):
        is_new = is_written and "hostPath" in source
        yield Volume(f"place-{number}", source, path, read_only=not is_written, is_new=is_new)


def _source_of(uri: str, is_written: bool) -> tuple[str, dict[str, Any]] | None:
    """Mount path and source of a place; None where nothing is mounted (s3, hub ids, paths)."""
    place = parse_place(uri)
    if place.kind is PlaceKind.CLAIM:
        return claim_mount_path(place.owner), {"persistentVolumeClaim": {"claimName": place.owner}}
    if place.kind is not PlaceKind.HOST_PATH:
        return None
    host_path = _fixed_part(place.path)
    kind = "DirectoryOrCreate" if is_written else ""
    mounted = mount_path(f"hostPath://{host_path}")
    assert mounted is not None
    return mounted, {"hostPath": {"path": host_path, "type": kind}}


def _fixed_part(path: str) -> str:
    """The folder above the first wildcard: what can be mounted."""
    if not _WILDCARD.search(path):
        return path.rstrip("/") or "/"
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if _WILDCARD.search(part))
    return "/".join(parts[:first]) or "/"


def _nvme_claim(job: InferenceJob) -> str | None:
    """A claim is mounted once, whatever else of the job lies on it."""
    nvme = job.spec.kv_cache.nvme
    if nvme is None or nvme.persistent_volume_claim is None:
        return None
    return f"pvc://{nvme.persistent_volume_claim.claim_name}"


def _nvme_volume(job: InferenceJob, owner: Owner) -> Iterator[Volume]:
    nvme = job.spec.kv_cache.nvme
    if nvme is not None and nvme.host_path is not None:
        source: dict[str, Any] = {"hostPath": {"path": nvme.host_path, "type": "DirectoryOrCreate"}}
        yield Volume(NVME_VOLUME, source, nvme_path(job), sub_path=f"{owner.uid}/{KV_FOLDER}")
    elif nvme is not None and nvme.empty_dir is not None:
        yield Volume(NVME_VOLUME, {"emptyDir": {"sizeLimit": str(nvme.size)}}, nvme_path(job))


def nvme_path(job: InferenceJob) -> str:
    """Where the NVMe tier's folder is in the pod. One on a node has a path of its own: its root may
    be the folder of the output, of the model or of its cache as well."""
    nvme = job.spec.kv_cache.nvme
    if nvme is not None and nvme.persistent_volume_claim is not None:
        return claim_mount_path(nvme.persistent_volume_claim.claim_name)
    return NVME_MOUNT
