"""The spec of an InferenceJob: what to run, from where, to where, and how it may fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pipemax_worker.job.engine import EngineSpec, ParallelismSpec
from pipemax_worker.job.kv_cache import KvCacheSpec
from pipemax_worker.job.model_source import ModelSpec
from pipemax_worker.job.names import ImageName
from pipemax_worker.job.node_loss import NodeLossSpec
from pipemax_worker.job.places import FolderUri, PlaceUri, parse_place
from pipemax_worker.job.quantities import Duration
from pipemax_worker.job.sampling import SamplingSpec
from pipemax_worker.job.scheduling import CredentialsSpec, SchedulingSpec
from pipemax_worker.job.section import BrokenRule, Section

MAX_GRACE_SECONDS = 3600
MIN_DERIVED_GRACE_SECONDS = 60
NVME_WRITE_BYTES_PER_SECOND = 1e9
"""Taken for granted where nobody has measured it: of an NVMe drive whose fast cache is full."""

_PARKING_MARGIN = 1.5

PlaceUris = Annotated[tuple[PlaceUri, ...], Field(strict=False, min_length=1, max_length=1024)]


class InputSpec(Section):
    """The requests: JSONL in the OpenAI Batch form, plain or `.gz`. Exactly one of uri, uris."""

    uri: PlaceUri | None = None
    """A file, a folder, or a pattern such as `pvc://datasets/reviews/*.jsonl`."""

    uris: PlaceUris | None = None
    """Several such places, read in this order."""

    @property
    def all_uris(self) -> tuple[str, ...]:
        """``uri`` or ``uris``, whichever is given."""
        return self.uris if self.uris is not None else (self.uri or "",)

    def broken_rules(self) -> Iterator[BrokenRule]:
        if (self.uri is None) == (self.uris is None):
            found = "none" if self.uri is None else "both"
            field = "uri" if self.uri is None else "uris"
            yield BrokenRule(field, f"found {found}, expected exactly one of uri, uris")
        for position, uri in enumerate(self.uris or ()):
            if uri in (self.uris or ())[:position]:
                yield BrokenRule(f"uris.{position}", f"found {uri!r} a second time")


class OutputSpec(Section):
    """Where the records go. A job that is started again goes on with what lies there."""

    uri: FolderUri
    """A folder or prefix, made where it is missing; it gets results/, errors/, ledger/ and at the
    end manifest.json."""

    shared: bool = False
    """Says that a path is the same folder on all nodes (NFS, say). Needed with more than one node
    unless the place is `pvc://` or `s3://`."""

    @property
    def is_shared(self) -> bool:
        """Whether several nodes see the same records."""
        return self.shared or parse_place(self.uri).is_shared


class ErrorPolicySpec(Section):
    """How many failed requests fail the job. A failed request always gets an error record. A
    change while the job runs holds for workers that start afterwards."""

    max_failed_percent: Annotated[float, Field(ge=0, le=100)] = 100.0
    """Fail the job when more than this share of its requests has failed. 100: never."""

    max_failed_count: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """Fail the job when more requests than this have failed. Absent: never."""


class InferenceJobSpec(Section):
    """What to run. Only model, input and output are required."""

    model: ModelSpec
    input: InputSpec
    output: OutputSpec
    sampling: SamplingSpec = Field(default_factory=SamplingSpec)
    parallelism: ParallelismSpec = Field(default_factory=ParallelismSpec)
    engine: EngineSpec = Field(default_factory=EngineSpec)
    kv_cache: KvCacheSpec = Field(default_factory=KvCacheSpec)
    error_policy: ErrorPolicySpec = Field(default_factory=ErrorPolicySpec)
    node_loss: NodeLossSpec = Field(default_factory=NodeLossSpec)

    grace_period_seconds: Annotated[int, Field(ge=1, le=MAX_GRACE_SECONDS)] | None = None
    """Time to flush records and to park KV when the job is stopped. Absent: 60, or what it takes to
    write all KV of the host memory to `kvCache.nvme` and half as much again, at the speed that the
    chart's `worker.nvmeWriteBytesPerSecond` says (1 GB/s by default and outside a cluster)."""

    deadline: Duration | None = None
    """Longest time the job may run, such as `12h`; what is done by then is kept. Absent: none."""

    start_deadline: Duration = Field(default=600, json_schema_extra={"default": "10m"})
    """Longest time that pods which cannot run (no node, no image, no volume), or that fail again
    and again before any request was worked on, are waited for; then the job fails with the
    cluster's or the worker's own reason. No effect outside a cluster."""

    suspend: bool = False
    """Stop, keep what is done, and go on when this is false again."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Delete the job object (never its output) this long after its end. Absent: never."""

    resume_from: FolderUri | None = None
    """Output of an earlier job with the same model, sampling and input: its records that succeeded
    are copied and count as done, the rest is run. Absent: what lies at the job's own output."""

    credentials: CredentialsSpec | None = None
    scheduling: SchedulingSpec = Field(default_factory=SchedulingSpec)

    image: ImageName | None = None
    """Image of the worker. Absent: the one that belongs to the operator."""

    def derive_grace_seconds(
        self, write_bytes_per_second: float = NVME_WRITE_BYTES_PER_SECOND
    ) -> int:
        """``gracePeriodSeconds``, resolved. Longer than it need be costs nothing: a worker ends as
        soon as it has parked."""
        if self.grace_period_seconds is not None:
            return self.grace_period_seconds
        seconds = _PARKING_MARGIN * self.kv_cache.parked_bytes / write_bytes_per_second
        return min(MAX_GRACE_SECONDS, max(MIN_DERIVED_GRACE_SECONDS, math.ceil(seconds)))

    @property
    def replaces_lost_workers(self) -> bool:
        """``nodeLoss.policy``, resolved: a replacement that does not reach the output would begin
        anew."""
        if self.node_loss.policy is None:
            return self.output.is_shared
        return self.node_loss.policy == "Replace"

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.output.uri in self.input.all_uris:
            yield BrokenRule(
                "output.uri", f"found {self.output.uri!r}, expected another place than the input"
            )
        if self.node_loss.policy == "Replace" and not self.output.is_shared:
            yield BrokenRule(
                "nodeLoss.policy",
                f"found Replace, expected Wait: {self.output.uri!r} is on the lost node alone (if "
                "it is the same folder on all nodes, say so with output.shared: true)",
            )
        if self.parallelism.nodes > 1 and not self.output.is_shared:
            yield BrokenRule(
                "output.uri",
                f"found {self.output.uri!r}, expected pvc:// or s3://: {self.parallelism.nodes} "
                "nodes need a store that they share (if this path is the same folder on all of "
                "them, say so with shared: true)",
            )
