"""What the two containers that run as root have in common: little may they do, and they are ours.

Their image is the operator's setting, never the job's: who may name an image may not run it as
root. Pure.
"""

from __future__ import annotations

from typing import Any

from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

TERMINATION_LOG = "/dev/termination-log"
_MEMORY = "256Mi"


def build_root_container(
    name: str,
    arguments: list[str],
    capabilities: list[str],
    mounts: list[Document],
    settings: OperatorSettings,
) -> Document:
    """``pipemax host-folders ARGUMENTS`` with ``capabilities`` and no others."""
    variables = {"PIPEMAX_TERMINATION_LOG": TERMINATION_LOG, "HOME": "/tmp"} | settings.environment
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [*settings.command],
        "args": ["host-folders", *arguments],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "resources": {
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"memory": _MEMORY},
        },
        "securityContext": {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": capabilities},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [*mounts, *settings.extra_volume_mounts],
    }
