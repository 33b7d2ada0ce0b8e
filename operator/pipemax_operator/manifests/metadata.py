"""Name, labels and owner of a child."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipemax_worker.job import InferenceJob

from pipemax_operator import names


class Owner(NamedTuple):
    """The InferenceJob as the API server knows it."""

    namespace: str
    uid: str


def child_metadata(name: str, job: InferenceJob, owner: Owner) -> dict[str, Any]:
    """The user's labels first, ours win. The owner's end is the child's: garbage collection."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": {**job.metadata.labels, **names.child_labels(job.metadata.name)},
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": job.metadata.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
