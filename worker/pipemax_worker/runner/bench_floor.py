"""What a step cannot be faster than: its weights and KV read once at the speed of a plain copy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES, KVGeometry
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.errors import StageDiedError
from pipemax_worker.pipeline.settings import PipelineSettings, weight_bytes

COPY_METER = "pipemax_worker.baselines.memory_copy"
METER_TIMEOUT_SECONDS = 120


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
    """What each stage reads in a step."""

    bytes_per_second: float
    weight_bytes: tuple[int, ...]
    kv_bytes_per_token: tuple[int, ...]

    def seconds(self, num_kv_tokens: int) -> float:
        """Of a step whose attention sees so many positions, on the slowest stage."""
        stages = zip(self.weight_bytes, self.kv_bytes_per_token, strict=True)
        return max(w + num_kv_tokens * kv for w, kv in stages) / self.bytes_per_second

    def median_seconds(self, steps: Iterable[StepRecord]) -> float:
        return median([self.seconds(step.num_kv_tokens) for step in steps] or [0.0])


def build_floor(settings: PipelineSettings, geometry: KVGeometry, speeds: CopySpeeds) -> StepFloor:
    """The embedding is looked up: a step reads next to nothing of it."""
    config, dtype = settings.model_config, settings.dtype
    stages = range(geometry.num_stages)
    embedding_bytes = config.embedding_parameters * KV_DTYPE_BYTES[dtype]
    is_looked_up = [
        stage == 0 and not (geometry.num_stages == 1 and config.tie_word_embeddings)
        for stage in stages
    ]
    weights = [
        weight_bytes(config, geometry.layers_of_stage, stage, dtype)
        - (embedding_bytes if is_looked_up[stage] else 0)
        for stage in stages
    ]
    kv = [geometry.payload_bytes(stage) // geometry.block_tokens for stage in stages]
    return StepFloor(speeds.device, tuple(weights), tuple(kv))


def measure_copies(device: str, command: Sequence[str] | None = None) -> CopySpeeds:
    """By a program of its own: this process never loads torch. Raises StageDiedError."""
    done = subprocess.run(
        command or [sys.executable, "-m", COPY_METER, device],
        capture_output=True,
        timeout=METER_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise StageDiedError(f"measuring copies on {device} failed:\n{tail}")
    return msgspec.json.decode(done.stdout, type=CopySpeeds)


def gpu_memory_used_bytes(command: Sequence[str] = ("nvidia-smi",)) -> tuple[int, ...]:
    """Of each GPU, by all programs on it, as ``nvidia-smi`` says; empty without it."""
    query = ("--query-gpu=memory.used", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run([*command, *query], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(line) << 20 for line in done.stdout.split())
