"""What a job took of GPUs, from its workers' words. Pure.

Each worker tells the whole job's: its own run's, and what the ledger at the output keeps of all
others, ended ones too. So the largest figure is the newest, and neither the end of a pod nor that
of the operator loses any; it never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class EnergyUsed:
    """``joules`` is 0 where nothing measures, ``gpu_seconds`` on CPUs."""

    joules: float = 0.0
    gpu_seconds: float = 0.0


def parse_energy(said: object) -> EnergyUsed:
    """``{"joules": ..., "gpuSeconds": ...}`` of a worker; nothing, where it says none."""
    if not isinstance(said, Mapping):
        return EnergyUsed()
    numbers = [said.get(name) for name in ("joules", "gpuSeconds")]
    return EnergyUsed(
        *(float(one) if isinstance(one, int | float) and one >= 0 else 0.0 for one in numbers)
    )


def energy_as_status(told: Iterable[EnergyUsed], before: Document | None) -> Document | None:
    """``status.energy``; None where no GPU was ever held."""
    whole, known = list(told), before or {}
    joules = max((one.joules for one in whole), default=0.0)
    gpu_hours = max((one.gpu_seconds for one in whole), default=0.0) / 3600
    status: Document = {
        "joules": max(round(joules), known.get("joules", 0)),
        "gpuHours": max(round(gpu_hours, 3), known.get("gpuHours", 0.0)),
    }
    return {name: value for name, value in status.items() if value} or None
