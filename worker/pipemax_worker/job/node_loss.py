"""What becomes of the work of a node that does not answer any more."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipemax_worker.job.quantities import Duration
from pipemax_worker.job.section import Section


class NodeLossSpec(Section):
    """What is done about a node that is lost: it has crashed, or its network is cut. Whatever is
    said here, no record is lost or written twice, also if the node comes back."""

    policy: Literal["Replace", "Wait"] | None = None
    """What becomes of the node's worker pod, which Kubernetes alone never replaces. `Replace`: it
    is given up, and another one starts where there is room. `Wait`: it is left as it is until the
    node is back, or somebody deletes the node. Absent: `Replace` if all nodes reach the output
    (`pvc://`, `s3://` or `shared: true`), else `Wait`. No effect outside a cluster."""

    replace_after: Duration = Field(default=300, json_schema_extra={"default": "5m"})
    """How long a node may be away before its worker is replaced. A worker that has only been cut
    off for less goes on as if nothing had happened."""

    take_over_after: Duration = Field(default=60, json_schema_extra={"default": "1m"})
    """How long a worker may show no sign of life before the others take over what it has in hand.
    Less than 10s counts as 10s."""
