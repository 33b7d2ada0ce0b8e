"""What an InferenceJob may ask of nodes: which of their folders, and which image. Pure.

Whoever may make an InferenceJob lets the operator make pods. What the cluster's administrator has
not allowed is refused before there are any. The pods' own volumes are looked at, not the fields
that they come from: what is mounted is what is checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.job import InferenceJob

from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.manifests.volumes import build_volumes
from pipemax_operator.settings import OperatorSettings

REASON = "NotAllowed"
_NAMESPACE = "{namespace}"


def find_forbidden(job: InferenceJob, owner: Owner, settings: OperatorSettings) -> str | None:
    """What the job asks for and may not have, in words for its author; None: nothing."""
    found = [*_forbidden_folders(job, owner, settings), *_forbidden_image(job, settings)]
    return "; ".join(found) or None


def may_mount(path: str, allowed: str, namespace: str) -> bool:
    """Whether ``path`` is the folder ``allowed``, or lies in it. ``{namespace}`` in ``allowed``
    stands for the job's. A path that goes up again (``..``) lies nowhere."""
    if not allowed.startswith("/") or not path.startswith("/") or ".." in path.split("/"):
        return False
    above = _parts(allowed.replace(_NAMESPACE, namespace))
    return _parts(path)[: len(above)] == above


def may_name(path: str, namespace: str, settings: OperatorSettings) -> bool:
    """Whether jobs of ``namespace`` may name the nodes' folder ``path``."""
    return any(may_mount(path, one, namespace) for one in settings.allowed_host_paths)


def may_run(image: str, allowed: str) -> bool:
    """Whether ``image`` is ``allowed``, or begins with it where that ends in ``*``. Texts are
    compared: ``worker`` and ``docker.io/library/worker`` are two."""
    if allowed.endswith("*"):
        return image.startswith(allowed.removesuffix("*"))
    return image == allowed


def _forbidden_folders(
    job: InferenceJob, owner: Owner, settings: OperatorSettings
) -> Iterator[str]:
    allowed = settings.allowed_host_paths
    sources = (volume.source.get("hostPath") for volume in build_volumes(job, owner, settings))
    for path in sorted({source["path"] for source in sources if source}):
        if not may_name(path, owner.namespace, settings):
            known = ", ".join(one.replace(_NAMESPACE, owner.namespace) for one in allowed)
            yield (
                f"the nodes' folder {path} is not open to InferenceJobs of namespace "
                f"{owner.namespace} (jobs.allowedHostPaths of the operator's chart: "
                f"{known or 'none'}); use a pvc:// or s3:// place, or ask the administrator"
            )


def _forbidden_image(job: InferenceJob, settings: OperatorSettings) -> Iterator[str]:
    image, allowed = job.spec.image, settings.allowed_images
    if image is not None and not any(may_run(image, one) for one in allowed):
        yield (
            f"spec.image {image} is not open to InferenceJobs (jobs.allowedImages of the "
            f"operator's chart: {', '.join(allowed) or 'none'}); leave it out for the operator's "
            "own, or ask the administrator"
        )


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
