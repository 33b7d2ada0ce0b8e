"""The Job that removes ended jobs' folders from one node's disk. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pipemax_operator import names
from pipemax_operator.kueue import QUEUE_LABEL
from pipemax_operator.manifests.root_container import build_root_container
from pipemax_operator.settings import OperatorSettings
from pipemax_operator.sweeps import Disk, ObservedSweep, Sweep

Document = dict[str, Any]

SWEEP_LABEL = f"{names.GROUP}/nvme-sweep"
"""Of a sweep's Job and pod: the operator's release."""

_ANNOTATION = f"{names.GROUP}/nvme-sweep"
_FOLDER = "/mnt/pipemax/nvme"
_WAIT_SECONDS = 30
_TTL_SECONDS = 3600


def build_sweep_job(sweep: Sweep, settings: OperatorSettings, attempt: str) -> Document:
    """Pinned to the node and tolerating all its taints: a disk that is full or a node that is
    cordoned is no reason to leave the folders there. While the node is away the pod waits for it.

    ``attempt`` makes the name another one each time: the last Job may still be on its way out.
    """
    said = json.dumps([sweep.disk.node, sweep.disk.root, sweep.uids, attempt])
    digest = hashlib.sha256(said.encode()).hexdigest()[:10]
    labels = {**names.APP_LABELS, SWEEP_LABEL: settings.system_name}
    queue = {QUEUE_LABEL: settings.sweep_queue_name} if settings.sweep_queue_name else {}
    body = {"node": sweep.disk.node, "root": sweep.disk.root, "uids": sweep.uids}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{settings.system_name[:40]}-sweep-{digest}",
            "namespace": settings.system_namespace,
            "labels": labels | queue,
            "annotations": {_ANNOTATION: json.dumps(body)},
        },
        "spec": {
            "backoffLimit": 2,
            "ttlSecondsAfterFinished": _TTL_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": _pod(sweep, settings)},
        },
    }


def parse_sweep_job(document: Document) -> ObservedSweep | None:
    """Without its report, which its pod carries. None for one that we have not made."""
    try:
        body = json.loads(document["metadata"]["annotations"][_ANNOTATION])
        sweep = Sweep(Disk(body["node"], body["root"]), tuple(body["uids"]))
    except (KeyError, TypeError, ValueError):
        return None
    conditions = (document.get("status") or {}).get("conditions") or ()
    ended = {c["type"] for c in conditions if c["status"] == "True"}
    is_over = bool(ended & {"Complete", "Failed"})
    is_held = not is_over and bool((document.get("spec") or {}).get("suspend"))
    return ObservedSweep(document["metadata"]["name"], sweep, is_over, is_held)


def _pod(sweep: Sweep, settings: OperatorSettings) -> Document:
    term = {
        "matchFields": [{"key": "metadata.name", "operator": "In", "values": [sweep.disk.node]}]
    }
    required = {"nodeSelectorTerms": [term]}
    spec: Document = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "tolerations": [{"operator": "Exists"}],
        "containers": [_container(sweep, settings)],
        "volumes": [
            {"name": "nvme", "hostPath": {"path": sweep.disk.root, "type": "DirectoryOrCreate"}},
            *settings.extra_volumes,
        ],
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return spec


def _container(sweep: Sweep, settings: OperatorSettings) -> Document:
    uids = [argument for uid in sweep.uids for argument in ("--uid", uid)]
    arguments = ["sweep", _FOLDER, *uids, "--wait-seconds", str(_WAIT_SECONDS)]
    mounts = [{"name": "nvme", "mountPath": _FOLDER}]
    # What workers have made there is closed to others, root without this among them.
    return build_root_container("sweep", arguments, ["DAC_OVERRIDE"], mounts, settings)
