"""How a node computes: stages, micro-batches and the device tier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pipemax_worker.job.quantities import Duration, PositiveQuantity
from pipemax_worker.job.section import BrokenRule, Section

LayerCounts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=4096)], ...],
    Field(strict=False, min_length=1, max_length=64),
]


class ParallelismSpec(Section):
    """How many nodes, and how each cuts the model."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Worker pods, each with a whole model, that share the input. Above 1 the output needs a store
    that all nodes share. May be changed while the job runs; Kueue, where it has admitted the job,
    stops the workers then and queues the job again."""

    stages_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """Pipeline stages of a node; each has its own process and, on GPUs, its own GPU. Absent: as
    many as `layersPerStage` names, else one for each GPU, or 1 on a CPU."""

    layers_per_stage: LayerCounts | None = None
    """The model's layers on each stage, from the first to the last, such as `[15, 17, 17, 15]`.
    Absent: split by the time that layers, LM head and sampling take, and by the room that they
    leave for KV on each GPU, where that gains something between a layer's attention and its MLP."""

    @property
    def num_stages(self) -> int | None:
        """Stages of a node, if the job says how many."""
        if self.layers_per_stage is not None:
            return len(self.layers_per_stage)
        return self.stages_per_node

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.stages_per_node is not None and self.num_stages != self.stages_per_node:
            yield BrokenRule(
                "layersPerStage",
                f"found {self.num_stages} numbers, expected one for each of the "
                f"{self.stages_per_node} stages that stagesPerNode says",
            )


class EngineSpec(Section):
    """The engine of a node. The defaults suit most jobs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where stages compute. `auto`: GPUs where there are any, else the CPU."""

    block_tokens: Annotated[int, Field(ge=1, le=256)] = 16
    """Tokens of KV in a block, the unit in which KV is shared and moved."""

    kv_dtype: Literal["auto", "float32", "bfloat16", "float16", "fp8_e4m3"] = "auto"
    """Type of the KV cache. `auto`: the type that the model computes in."""

    micro_batches: Annotated[int, Field(ge=1, le=64)] | None = None
    """Micro-batches in flight. Absent: as many as there are stages."""

    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.92
    """Share of a GPU's memory for weights, buffers and KV together."""

    device_kv_cache: PositiveQuantity | None = None
    """Bytes of KV in each stage's device tier. Absent: what `memoryFraction` leaves on a GPU, a
    fixed amount on a CPU."""

    max_batched_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Most tokens that one micro-batch computes in a step. Absent: chosen for the device."""

    max_num_requests: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Most sequences in flight on a node, all micro-batches together. Absent: chosen for the
    device."""

    look_ahead: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    """Requests read ahead of the engine, from which the policy chooses. Bounds the memory that
    the input takes."""

    policy: Literal["fused", "pipemax", "tdpipe", "vllm"] = "fused"
    """How micro-batches are composed. `fused`: prefill in pieces beside decoding, micro-batches
    balanced by predicted time, KV moved between host and GPU beside the steps. The others are
    rivals to compare with: `pipemax`, the phases and the greedy of the paper; `tdpipe`, phases
    without moving KV; `vllm`, first come first served, without balancing or moving KV."""

    step_timeout: Duration = 600
    """How long all stages may be silent while they have work. Then the one that is furthest behind
    hangs: the pipeline is started again, and what it was at is treated as what killed it."""

    prefix_sharing: bool = True
    """Compute and keep the KV of a beginning that several prompts share only once."""
