"""Places as paths of this machine, outside a pod and inside one.

The arguments are the same everywhere: ``base_folder`` is the job file's folder, ``mounts`` maps a
claim to the folder given by ``--mount CLAIM=PATH``. ``hostPath://`` places are the paths
themselves, or lie below ``--mount hostPath=PATH``: so the operator's pods name what it has mounted
(:func:`places.mount_path`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import PydanticCustomError

from pipemax_worker.errors import JobFileError
from pipemax_worker.job.kv_cache import NvmeSpec
from pipemax_worker.job.places import Place, PlaceKind, is_hub_id, parse_place

HOST_PATH_MOUNT = "hostPath"
"""The key of ``mounts`` for ``hostPath://``; no claim can be called so."""

NVME_HOST_PATH_MOUNT = "nvmeHostPath"
"""The key of ``mounts`` for ``kvCache.nvme.hostPath``: in a pod it is the job's own folder there,
and the same path may be another place of the job, too."""


@dataclass(frozen=True)
class HubId:
    """A model by its name on a hub. ``missing_path`` is where no folder was found."""

    repo_id: str
    missing_path: Path


@dataclass(frozen=True)
class S3Folder:
    """A model in an object store: ``s3://bucket/key``."""

    uri: str


def resolve_place(uri: str, base_folder: Path, mounts: Mapping[str, str]) -> str:
    """An absolute path, wildcards included, or the ``s3://`` URI as it is.

    Raises JobFileError: ``pvc://`` without a mount, or no place at all.
    """
    place = _parse(uri)
    return uri if place.kind is PlaceKind.S3 else str(_local_path(place, base_folder, mounts))


def resolve_model(
    uri: str, base_folder: Path, mounts: Mapping[str, str]
) -> Path | HubId | S3Folder:
    """The model's folder, or its hub id where the text is one and no such path exists.

    Raises JobFileError as :func:`resolve_place`.
    """
    place = _parse(uri)
    if place.kind is PlaceKind.S3:
        return S3Folder(uri)
    path = _local_path(place, base_folder, mounts)
    return HubId(uri, path) if is_hub_id(uri) and not path.exists() else path


def resolve_nvme(nvme: NvmeSpec, mounts: Mapping[str, str]) -> Path | None:
    """The folder for the NVMe tier's files; None for ``emptyDir``: a folder that ends with the run.

    Raises JobFileError: a claim without a mount.
    """
    if nvme.host_path is not None:
        own = mounts.get(NVME_HOST_PATH_MOUNT)
        return _host_path(nvme.host_path, mounts) if own is None else Path(own).absolute()
    if nvme.persistent_volume_claim is not None:
        return _claim_folder(nvme.persistent_volume_claim.claim_name, mounts)
    return None


def _parse(uri: str) -> Place:
    try:
        return parse_place(uri)
    except PydanticCustomError as error:
        raise JobFileError(f"found {uri!r}, {error.message()}") from None


def _local_path(place: Place, base_folder: Path, mounts: Mapping[str, str]) -> Path:
    if place.kind is PlaceKind.CLAIM:
        return _claim_folder(place.owner, mounts) / place.path
    if place.kind is PlaceKind.HOST_PATH:
        return _host_path(place.path, mounts)
    starts_at_home = place.path == "~" or place.path.startswith("~/")
    path = Path(place.path).expanduser() if starts_at_home else Path(place.path)
    return Path(os.path.abspath(base_folder / path))  # without the ".." of a relative place


def _host_path(path: str, mounts: Mapping[str, str]) -> Path:
    root = mounts.get(HOST_PATH_MOUNT)
    return Path(path) if root is None else Path(f"{root}/{path.lstrip('/')}").absolute()


def _claim_folder(claim: str, mounts: Mapping[str, str]) -> Path:
    if claim not in mounts:
        raise JobFileError(
            f"pvc://{claim}: outside a cluster nothing is mounted for this claim; "
            f"say which folder it is with --mount {claim}=PATH"
        )
    return Path(mounts[claim]).absolute()
