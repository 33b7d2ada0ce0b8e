"""What a run has taken of its GPUs: said by the worker, kept by the ledger, shown by telemetry."""

from __future__ import annotations

import msgspec


class EnergyTotals(msgspec.Struct, frozen=True):
    """Sums that add up over runs and workers.

    joules        by the GPUs' own measurement; 0 where nothing measures.
    gpu_seconds   of GPUs that were held, busy or not; 0 on a CPU.
    """

    joules: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: EnergyTotals) -> EnergyTotals:
        return EnergyTotals(self.joules + other.joules, self.gpu_seconds + other.gpu_seconds)

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.joules or self.gpu_seconds)

    def tokens_per_joule(self, num_tokens: int) -> float | None:
        """None where nothing was measured."""
        return num_tokens / self.joules if self.joules else None
