"""What a run says while it starts: model, stages, tiers."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.messages import StageReady
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.runner.sizing import SessionSettings
from pipemax_worker.telemetry.progress import format_bytes, tier_name


def describe_start(job: InferenceJob, settings: SessionSettings) -> Iterator[str]:
    pipeline = settings.pipeline
    place = "the CPU" if pipeline.device == "cpu" else f"{pipeline.num_stages} GPUs"
    yield (
        f"{job.metadata.name}: {job.spec.model.names[0]} in {pipeline.dtype} on {place}, "
        f"stages: {pipeline.num_stages}, micro-batches: {settings.num_micro_batches}"
    )
    if job.spec.parallelism.nodes > 1:
        yield (
            f"  spec.parallelism.nodes is {job.spec.parallelism.nodes}: this is one of so many "
            "workers; each takes parts of the input that no other has, and goes on until all is "
            "done"
        )


def describe_stage(ready: StageReady) -> str:
    return (
        f"  stage {ready.stage}: {format_bytes(ready.weight_bytes)} of weights "
        f"in {ready.load_seconds:.1f} s"
    )


def describe_tiers(geometry: KVGeometry) -> str:
    """Capacity of each tier that there is, all stages together."""
    tiers = [
        f"{tier_name(tier)} {slots} ({format_bytes(slots * geometry.block_bytes())})"
        for tier in Tier
        if (slots := geometry.num_slots(tier))
    ]
    return f"  KV blocks of {geometry.block_tokens} tokens: " + ", ".join(tiers)
