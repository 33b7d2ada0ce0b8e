"""The one container of a worker pod that runs as root: it makes folders and hands them over. Pure.

A ``hostPath`` folder knows no fsGroup, and belongs to root where the kubelet has made it: without
this container the worker, which is nobody, could not write there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.manifests.root_container import build_root_container
from pipemax_operator.manifests.volumes import NVME_VOLUME, Volume
from pipemax_operator.settings import OperatorSettings

FOLDER_CONTAINER = "host-folders"


def build_folder_container(
    job: InferenceJob, owner: Owner, volumes: Sequence[Volume], settings: OperatorSettings
) -> dict[str, Any] | None:
    """None where the job has no folder on the node that it writes to.

    The whole ``kvCache.nvme.hostPath`` is mounted here and nowhere else: a worker sees the inner
    folder of its own job. Folders that hold something stay as they are.
    """
    new = [volume for volume in volumes if volume.is_new]
    nvme = [volume for volume in volumes if volume.name == NVME_VOLUME and volume.sub_path]
    if not new and not nvme:
        return None
    arguments = ["prepare", "--user", str(settings.run_as_user)]
    for volume in new:
        arguments += ["--hand-over", volume.path]
    for volume in nvme:
        arguments += ["--nvme", volume.path, "--uid", owner.uid]
        arguments += ["--namespace", owner.namespace, "--name", job.metadata.name]
    mounts = [volume._replace(sub_path="").as_mount() for volume in (*new, *nvme)]
    # DAC_OVERRIDE: the folder for NVMe tiers may be a user's, and is written to all the same.
    capabilities = ["CHOWN", "DAC_OVERRIDE"]
    return build_root_container(FOLDER_CONTAINER, arguments, capabilities, mounts, settings)
