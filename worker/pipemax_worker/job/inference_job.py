"""The InferenceJob as a Kubernetes object: apiVersion, kind, metadata, spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipemax_worker.job.names import JobName, Namespace
from pipemax_worker.job.section import Section
from pipemax_worker.job.spec import InferenceJobSpec

API_VERSION = "pipemax.dev/v1alpha1"
KIND = "InferenceJob"

# What the API server writes: `kubectl get -o yaml` prints it, and such a file is a job file too.
_SERVER_FIELDS = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    }
)


def _without(value: object, fields: frozenset[str]) -> object:
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if key not in fields}


class Metadata(Section):
    """Name and labels. What the API server adds (generation, finalizers, ...) is passed over."""

    name: JobName
    """Name of the job, unique in its namespace. Names of pods and claims begin with it."""

    namespace: Namespace | None = None
    """Namespace. Absent: the one that kubectl is set to."""

    labels: Annotated[dict[str, str], Field(max_length=256)] = Field(default_factory=dict)
    """Labels, passed on to the pods."""

    annotations: Annotated[dict[str, str], Field(max_length=256)] = Field(default_factory=dict)
    """Annotations."""

    uid: Annotated[str, Field(max_length=64)] | None = None
    """Given by the API server; never written by hand."""

    @model_validator(mode="before")
    @classmethod
    def _drop_server_fields(cls, value: Any) -> object:
        return _without(value, _SERVER_FIELDS)


class InferenceJob(Section):
    """Runs a model over a file of requests and writes one record for each."""

    api_version: Literal["pipemax.dev/v1alpha1"]
    """Version of this format."""

    kind: Literal["InferenceJob"]
    """Always InferenceJob."""

    metadata: Metadata
    spec: InferenceJobSpec

    @model_validator(mode="before")
    @classmethod
    def _drop_status(cls, value: Any) -> object:
        return _without(value, frozenset({"status"}))
