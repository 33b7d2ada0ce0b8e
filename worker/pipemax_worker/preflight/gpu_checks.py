"""GPUs: are there enough, are they well, are they free, can their stages meet? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipemax_worker.preflight.facts import GpuFacts, MemoryFacts, Needs
from pipemax_worker.preflight.findings import Finding, Severity
from pipemax_worker.preflight.sizes import describe_bytes

GPU_LOST_CHECK = "gpu-lost"

IDLE_BYTES = 1 << 30
"""What an idle GPU's driver and a display may take."""

UNEVEN_SHARE = 0.9
"""All stages have the same number of KV slots: the smallest GPU decides for all."""

NCCL_SEGMENT_BYTES = 10 << 20
"""Of /dev/shm for one connection between two GPUs without peer access, at the least."""

NCCL_ROOM_BYTES = 64 << 20
"""What a stage's connections take with all their channels."""


def check_gpus(needs: Needs, gpus: Sequence[GpuFacts]) -> Iterator[Finding]:
    """Of the GPUs that this process may use; the first ``num_stages`` of them get a stage each."""
    if needs.device != "cuda":
        return
    if len(gpus) < needs.num_stages:
        yield Finding(
            "gpus",
            Severity.FATAL,
            f"{needs.num_stages} stages need as many GPUs, and {len(gpus)} are visible",
            "lower parallelism.stagesPerNode, or see what has become of this machine's other GPUs "
            "(nvidia-smi)",
        )
        return
    used = gpus[: needs.num_stages]
    faults = [_fault(gpu) for gpu in used if gpu.fault is not None]
    yield from faults
    if not faults:
        smallest = min(gpu.total_bytes for gpu in used)
        yield Finding("gpus", Severity.OK, f"{len(used)} of {describe_bytes(smallest)} or more")
    yield from _check_gpu_memory(used)


def _fault(gpu: GpuFacts) -> Finding:
    return Finding(
        GPU_LOST_CHECK,
        Severity.FATAL,
        f"GPU {gpu.uuid} is lost: {gpu.fault}",
        "reset or replace it, or restart the machine",
    )


def _check_gpu_memory(gpus: Sequence[GpuFacts]) -> Iterator[Finding]:
    for gpu in gpus:
        if gpu.used_bytes is not None and gpu.used_bytes > IDLE_BYTES:
            yield Finding(
                "gpu-memory",
                Severity.WARNING,
                f"GPU {gpu.uuid}: {describe_bytes(gpu.used_bytes)} of "
                f"{describe_bytes(gpu.total_bytes)} are taken by other programs",
                "end them, or lower engine.memoryFraction",
            )
    sizes = [gpu.total_bytes for gpu in gpus]
    if min(sizes) < UNEVEN_SHARE * max(sizes):
        yield Finding(
            "gpu-memory",
            Severity.WARNING,
            f"GPUs have from {describe_bytes(min(sizes))} to {describe_bytes(max(sizes))}, and the "
            "smallest decides how much KV all of them hold",
            "use GPUs of one size (spec.scheduling.nodeSelector)",
        )


def check_shared_memory(needs: Needs, memory: MemoryFacts) -> Iterator[Finding]:
    """NCCL moves hidden states through /dev/shm where GPUs cannot reach each other directly."""
    if needs.device != "cuda" or needs.num_stages == 1 or memory.shared_free is None:
        return
    free, size = memory.shared_free, memory.shared_size or memory.shared_free
    told = f"/dev/shm has {describe_bytes(free)} free of {describe_bytes(size)}"
    remedy = "raise the worker's shared memory (values: worker.sharedMemory; docker run --shm-size)"
    if free < needs.num_stages * NCCL_SEGMENT_BYTES:
        yield Finding("shared-memory", Severity.FATAL, f"{told}, too little for NCCL", remedy)
    elif free < needs.num_stages * NCCL_ROOM_BYTES:
        wanted = describe_bytes(needs.num_stages * NCCL_ROOM_BYTES)
        yield Finding("shared-memory", Severity.WARNING, f"{told}; NCCL may want {wanted}", remedy)
    else:
        yield Finding("shared-memory", Severity.OK, told)
