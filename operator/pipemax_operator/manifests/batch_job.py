"""The child batch/v1 Job: one index a node, retries and replacements by Kubernetes' own rules."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator import names
from pipemax_operator.exit_codes import GPU_LOST, NODE_RESTARTED, NOT_FOUND, PERMANENT, STOPPED
from pipemax_operator.kueue import QUEUE_LABEL
from pipemax_operator.manifests.metadata import Owner, child_metadata
from pipemax_operator.manifests.pod import CONTAINER, build_pod_template
from pipemax_operator.settings import OperatorSettings

DIGEST_ANNOTATION = f"{names.GROUP}/spec-digest"


def build_batch_job(job: InferenceJob, owner: Owner, settings: OperatorSettings) -> dict[str, Any]:
    """An Indexed Job. Kueue holds and releases it by ``suspend``: with a queue (of the spec, or of
    the InferenceJob's own label) that field is Kueue's, and is written only at creation."""
    spec = job.spec
    template = build_pod_template(job, owner, settings)
    metadata = child_metadata(names.child_name(job.metadata.name), job, owner)
    body: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": spec.parallelism.nodes,
        "parallelism": spec.parallelism.nodes,
        "backoffLimitPerIndex": settings.max_retries,
        "maxFailedIndexes": spec.parallelism.nodes,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [*_failure_rules()]},
        "template": template,
    }
    if spec.deadline is not None:
        body["activeDeadlineSeconds"] = spec.deadline
    if spec.scheduling.queue_name is not None:
        metadata["labels"][QUEUE_LABEL] = spec.scheduling.queue_name
    body["suspend"] = spec.suspend or QUEUE_LABEL in metadata["labels"]
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]
    metadata["annotations"] = {DIGEST_ANNOTATION: digest}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": body}


def _failure_rules() -> list[dict[str, Any]]:
    """Order counts: the first rule that fits decides.

    A pod that was evicted, preempted or drained does not count, nor one that stopped in order, nor
    one whose GPU was lost, since its node is avoided from then on, nor one whose node was restarted
    too soon for it to be given up; what trying again cannot change fails the Job at once; what a
    node lacks fails its index alone; the rest counts against it. Exit code 137 does: a container
    that was killed for its memory has it, too.
    """
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": _exit_codes([STOPPED, GPU_LOST, NODE_RESTARTED])},
        {"action": "FailJob", "onExitCodes": _exit_codes(PERMANENT)},
        {"action": "FailIndex", "onExitCodes": _exit_codes(NOT_FOUND)},
    ]


def _exit_codes(values: tuple[int, ...] | list[int]) -> dict[str, Any]:
    return {"containerName": CONTAINER, "operator": "In", "values": sorted(values)}
