"""The ConfigMap that carries the job file into the pods."""

from __future__ import annotations

from typing import Any

from pipemax_worker.job import InferenceJob, dump_job

from pipemax_operator import names
from pipemax_operator.manifests.metadata import Owner, child_metadata
from pipemax_operator.settings import OperatorSettings

JOB_FILE = "job.yaml"


def build_config_map(job: InferenceJob, owner: Owner, settings: OperatorSettings) -> dict[str, Any]:
    """The InferenceJob as the worker reads it. ``suspend`` speaks to the operator: a pod that runs
    is not suspended. The grace period is the one that the pod has.

    What has its default is left out: the API server fills in those of fields that a newer version
    has brought, and the worker of a job that an older operator started knows no such field. For
    that a default means the same in all versions."""
    grace_seconds = job.spec.derive_grace_seconds(settings.nvme_write_bytes_per_second)
    resolved = {"suspend": False, "grace_period_seconds": grace_seconds}
    spec = job.spec.model_copy(update=resolved)
    text = dump_job(job.model_copy(update={"spec": spec}), with_defaults=False)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(names.child_name(job.metadata.name), job, owner),
        "data": {JOB_FILE: text},
    }
