"""What the cluster is told: nodes, queues, priorities, credentials. No effect outside a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pipemax_worker.job.names import ObjectName, ResourceName
from pipemax_worker.job.section import BrokenRule, Section

LabelText = Annotated[str, StringConstraints(max_length=317)]


class Toleration(Section):
    """Lets the pods run on nodes with a taint, as in a pod's own spec."""

    key: LabelText | None = None
    """The taint's key. Absent, with operator Exists: every taint."""

    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal`: the value must match too. `Exists`: any value."""

    value: LabelText | None = None
    """The taint's value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Absent: all of them."""

    toleration_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """How long a `NoExecute` taint is tolerated. Absent: for ever."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.operator == "Exists" and self.value:
            yield BrokenRule("value", "expected none: operator Exists matches every value")
        if self.operator == "Equal" and self.key is None:
            yield BrokenRule("key", "missing; only operator Exists may leave it out")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            yield BrokenRule("tolerationSeconds", "expected only with effect NoExecute")


class SchedulingSpec(Section):
    """Which nodes the pods may use, and in which order jobs get them."""

    node_selector: Annotated[dict[str, LabelText], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """Labels that a node must have."""

    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False, max_length=64)] = ()
    """Taints that the pods tolerate."""

    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""

    queue_name: ObjectName | None = None
    """Kueue's LocalQueue that admits the job."""

    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods, where the default one shows no GPUs (often `nvidia`)."""

    gpu_resource_name: ResourceName = "nvidia.com/gpu"
    """The resource that stands for one GPU."""


class SecretReference(Section):
    """A Secret in the job's namespace."""

    name: ObjectName
    """Name of the Secret."""


class CredentialsSpec(Section):
    """Access to object stores and hubs. Outside a cluster the environment's own is used."""

    secret_ref: SecretReference
    """A Secret whose keys are called as the variables that they stand for. Of stores:
    `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and where needed `AWS_SESSION_TOKEN`,
    `AWS_REGION` (or `AWS_DEFAULT_REGION`), `AWS_ENDPOINT_URL` (or `AWS_ENDPOINT_URL_S3`),
    `AWS_ALLOW_HTTP`, `AWS_CA_BUNDLE` (a path), `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`,
    `AWS_REQUEST_PAYER`, `AWS_SKIP_SIGNATURE`, `AWS_SERVER_SIDE_ENCRYPTION`, `AWS_SSE_KMS_KEY_ID`,
    `AWS_SSE_BUCKET_KEY_ENABLED`, `AWS_SSE_CUSTOMER_KEY_BASE64`. Of hubs: `HF_TOKEN`,
    `HF_ENDPOINT`. These are variables of the worker, and no other key is. The Secret is also
    mounted into the pods as a folder, which `PIPEMAX_CREDENTIALS_FOLDER` names; store keys and
    `HF_TOKEN` there win over the environment, and may be renewed while the job runs."""
