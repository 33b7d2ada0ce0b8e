"""Places: how a job file says where a model, an input or an output lies.

    reviews/*.jsonl  /data/x   a path; a relative one starts at the job file's folder
    file:///data/x             the same path as a URI
    hostPath:///data/x         a path of the node, mounted into the pod
    pvc://claim/x              a path in a PersistentVolumeClaim, mounted into the pod
    s3://bucket/key            an object store, nothing is mounted

A model may also be a hub id (``organisation/name``), which reads like a path.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, StringConstraints

from pipemax_worker.job.names import DNS_SUBDOMAIN_PATTERN
from pipemax_worker.job.section import unexpected

MOUNT_ROOT = "/mnt/pipemax"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_KNOWN_FORMS = "a path, hostPath:///path, file:///path, pvc://claim/path or s3://bucket/key"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_GLOB_CHARACTERS = re.compile(r"[*?\[]")


class PlaceKind(enum.StrEnum):
    """What has to be there before the place can be read."""

    PATH = "path"
    HOST_PATH = "hostPath"
    CLAIM = "pvc"
    S3 = "s3"


@dataclass(frozen=True)
class Place:
    """A parsed place. ``owner`` is the claim or the bucket; ``path`` is absolute for HOST_PATH and
    relative to its owner for CLAIM and S3."""

    kind: PlaceKind
    path: str
    owner: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether all nodes of a cluster see the same files there."""
        return self.kind in (PlaceKind.CLAIM, PlaceKind.S3)


def parse_place(uri: str) -> Place:
    """Raises PydanticCustomError, which says what is expected in its place."""
    if not uri or uri != uri.strip() or "\x00" in uri:
        raise unexpected(f"{_KNOWN_FORMS}, without spaces around it")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Place(PlaceKind.PATH, uri)
    parsers = {"hostpath": _host_path, "file": _file, "pvc": _claim, "s3": _s3}
    if scheme.lower() not in parsers:
        raise unexpected(_KNOWN_FORMS)
    return parsers[scheme.lower()](rest)


def _host_path(rest: str) -> Place:
    if not rest.startswith("/"):
        raise unexpected(f"an absolute path, three slashes in all: hostPath:///{rest}")
    _refuse_parent_folders(rest)
    return Place(PlaceKind.HOST_PATH, rest)


def _file(rest: str) -> Place:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise unexpected(f"an absolute path, three slashes in all: file:///{rest}")
    return Place(PlaceKind.PATH, "/" + unquote(path))


def _claim(rest: str) -> Place:
    claim, _, path = rest.partition("/")
    if not re.fullmatch(DNS_SUBDOMAIN_PATTERN, claim):
        raise unexpected("pvc://claim/path with the name of a PersistentVolumeClaim")
    _refuse_parent_folders(path)
    return Place(PlaceKind.CLAIM, path.strip("/"), claim)


def _s3(rest: str) -> Place:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise unexpected("s3://bucket/key with a bucket's name of 3 to 63 letters and digits")
    return Place(PlaceKind.S3, key, bucket)


def _refuse_parent_folders(path: str) -> None:
    """A mounted place must not lead out of its mount."""
    if ".." in path.split("/"):
        raise unexpected("a path without '..'")


def is_hub_id(text: str) -> bool:
    """Whether ``text`` can be a hub id (``name``, ``organisation/name``). So can some paths."""
    return _HUB_ID.fullmatch(text) is not None


def mount_path(uri: str) -> str | None:
    """The path inside the pod of ``hostPath://`` and ``pvc://``; None where nothing is mounted.

    Operator (where to mount) and worker (where to read) both ask here. Wildcards stay in the path.
    """
    place = parse_place(uri)
    if place.kind is PlaceKind.HOST_PATH:
        return f"{MOUNT_ROOT}/host{place.path}".rstrip("/")
    if place.kind is PlaceKind.CLAIM:
        return f"{claim_mount_path(place.owner)}/{place.path}".rstrip("/")
    return None


def claim_mount_path(claim: str) -> str:
    """Where a PersistentVolumeClaim is mounted inside the pod."""
    return f"{MOUNT_ROOT}/pvc/{claim}"


def _check_place(uri: str) -> str:
    parse_place(uri)
    return uri


def _check_folder(uri: str) -> str:
    if _GLOB_CHARACTERS.search(uri):
        raise unexpected("a single folder, without the wildcards * ? [")
    return _check_place(uri)


PlaceUri = Annotated[
    str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_check_place)
]
FolderUri = Annotated[
    str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_check_folder)
]
