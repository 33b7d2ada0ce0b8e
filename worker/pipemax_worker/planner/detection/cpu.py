"""Measures the processor and the memory as stages share them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from pipemax_worker.errors import PreflightError

METER = "pipemax_worker.planner.detection.meter"
METER_SECONDS = 1.5
_TIMEOUT_SECONDS = 120.0
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class CpuSpeeds(msgspec.Struct, frozen=True):
    """Of one of ``num_stages`` that all work at once; ``flops`` and bytes per second."""

    num_stages: int
    flops: float
    read: float
    copy: float


class _Reading(msgspec.Struct, frozen=True):
    flops: float
    read: float
    copy: float


def measure_cpu(num_stages: int, command: Sequence[str] | None = None) -> CpuSpeeds:
    """By as many programs at once, of one thread each: the mean of them. Raises PreflightError."""
    words = command or (sys.executable, "-m", METER, str(METER_SECONDS))
    environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
    programs = [
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        for _ in range(num_stages)
    ]
    try:
        readings = [_read(program) for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    return CpuSpeeds(
        num_stages,
        flops=sum(one.flops for one in readings) / num_stages,
        read=sum(one.read for one in readings) / num_stages,
        copy=sum(one.copy for one in readings) / num_stages,
    )


def _read(program: subprocess.Popen[str]) -> _Reading:
    try:
        out, errors = program.communicate(timeout=_TIMEOUT_SECONDS)
        return msgspec.json.decode(out, type=_Reading)
    except subprocess.TimeoutExpired:
        raise PreflightError(
            f"measuring the processor takes longer than {_TIMEOUT_SECONDS:.0f} s; try again when "
            "less runs beside it"
        ) from None
    except msgspec.DecodeError:
        raise PreflightError(f"measuring the processor failed: {errors.strip()[-500:]}") from None
