"""What a step cannot be faster than: its weights and KV read once at the speed of a plain copy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TypeVar

import msgspec

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES, KVGeometry
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.errors import StageDiedError
from pipemax_worker.performance.experts import ExpertLayers
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.pipeline.gpus import gpu_uuids
from pipemax_worker.pipeline.settings import PipelineSettings
from pipemax_worker.preflight.nvidia_smi import Ask, ask_nvidia_smi, read_gpus

COPY_METER = "pipemax_worker.baselines.memory_copy"
METER_TIMEOUT_SECONDS = 120

Reading = TypeVar("Reading")


class CopySpeeds(msgspec.Struct, frozen=True):
    """Measured with nothing else running. Bytes per second.

    device            a copy within the device's memory; bytes read and written both count.
    host_to_device, device_to_host   pinned memory, one direction at a time; 0 on a CPU.
    """

    name: str
    device: float
    host_to_device: float = 0.0
    device_to_host: float = 0.0


class StepFloor(msgspec.Struct, frozen=True):
    """What each stage reads in a step. ``experts``: those among its weights, of which a step reads
    the ones that its tokens are expected to go to."""

    bytes_per_second: float
    weight_bytes: tuple[int, ...]
    kv_bytes_per_token: tuple[int, ...]
    experts: tuple[ExpertLayers | None, ...] = ()
    element_bytes: int = 0

    def seconds(self, num_kv_tokens: int, num_tokens: int = 1) -> float:
        """Of a step whose attention sees so many positions, on the slowest stage."""
        weights = list(self.weight_bytes)
        for stage, experts in enumerate(self.experts):
            if experts is not None:
                untouched = 1.0 - experts.touched_share(num_tokens)
                weights[stage] -= int(untouched * experts.num_parameters * self.element_bytes)
        stages = zip(weights, self.kv_bytes_per_token, strict=True)
        return max(w + num_kv_tokens * kv for w, kv in stages) / self.bytes_per_second

    def median_seconds(self, steps: Iterable[StepRecord]) -> float:
        each = [self.seconds(step.num_kv_tokens, step.num_tokens) for step in steps]
        return median(each or [0.0])


def build_floor(settings: PipelineSettings, geometry: KVGeometry, speeds: CopySpeeds) -> StepFloor:
    """The embedding is looked up: a step reads next to nothing of it."""
    costs = derive_stage_costs(settings.model_config, geometry, settings.dtype)
    return StepFloor(
        speeds.device,
        weight_bytes=tuple(cost.weight_bytes for cost in costs),
        kv_bytes_per_token=tuple(cost.kv_bytes_per_token for cost in costs),
        experts=tuple(cost.experts for cost in costs),
        element_bytes=KV_DTYPE_BYTES[settings.dtype],
    )


def measure_copies(device: str, command: Sequence[str] | None = None) -> CopySpeeds:
    """Raises StageDiedError."""
    command = command or [sys.executable, "-m", COPY_METER, device]
    return run_meter(f"copies on {device}", command, CopySpeeds)


def run_meter(what: str, command: Sequence[str], kind: type[Reading]) -> Reading:
    """What a program says that measures ``what``: this process never loads torch. Raises
    StageDiedError."""
    done = subprocess.run(command, capture_output=True, timeout=METER_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise StageDiedError(f"measuring {what} failed:\n{tail}")
    return msgspec.json.decode(done.stdout, type=kind)


def gpu_memory_used_bytes(
    uuids: Sequence[str] | None = None, ask: Ask = ask_nvidia_smi
) -> tuple[int, ...]:
    """Of each of ``uuids`` (None: the GPUs that CUDA may use, in its order), by all programs on it,
    as ``nvidia-smi`` says; 0 for one that it does not know, empty without it."""
    readings = read_gpus(ask)
    if not readings:
        return ()
    known = (readings.get(uuid) for uuid in (gpu_uuids() if uuids is None else uuids))
    return tuple((one.used_bytes or 0) if one is not None else 0 for one in known)
