"""Names and labels of everything that the operator makes or reads. Pure."""

from __future__ import annotations

GROUP = "pipemax.dev"
VERSION = "v1alpha1"
KIND = "InferenceJob"
PLURAL = "inferencejobs"
API_VERSION = f"{GROUP}/{VERSION}"

FIELD_MANAGER = "pipemax-operator"

JOB_LABEL = f"{GROUP}/inferencejob"
"""Label of all children: the job's name."""

PLACEMENT_GATE = f"{GROUP}/placement"
"""Scheduling gate of pods that use GPUs: opened once the nodes to avoid are in their affinity."""

APP_LABELS = {
    "app.kubernetes.io/name": "pipemax-worker",
    "app.kubernetes.io/part-of": "pipemax",
    "app.kubernetes.io/managed-by": FIELD_MANAGER,
}


def child_name(job_name: str) -> str:
    """Of the ConfigMap and of the batch/v1 Job alike. A job's name leaves room for the suffixes
    that pods get (``JobName``: at most 52 characters)."""
    return job_name


def child_labels(job_name: str) -> dict[str, str]:
    """What every child carries."""
    return {**APP_LABELS, JOB_LABEL: job_name}
