"""One frozen picture of a run, from which display, ``/progress`` and summary are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.telemetry.work_totals import WorkTotals


class ProgressSnapshot(msgspec.Struct, frozen=True):
    """``input_bytes_*`` measure progress before the number of requests is known: requests are
    counted while they stream by, bytes are known from the start. ``*_seconds`` are since start.
    ``failed_reasons`` maps an error code to how many records carry it. ``input_bytes_found`` were
    done by earlier runs: they are part of what is done, not of this run's rate.
    ``num_pipeline_restarts`` counts what followed the death of a stage.

    closed_ranges  the ranges that are done, by whichever worker, as far as this one knows.
    open_ranges    the ranges that this worker has in hand. Those of all workers and the closed ones
                   add up to the whole job.
    energy         of this run so far; ``job_energy`` of the whole job, as far as this worker knows.
    power_watts    of this run's GPUs now; None where nothing measures it.
    """

    job_name: str
    phase: str
    num_done: int
    num_failed: int
    num_in_flight: int
    input_bytes_total: int
    input_bytes_done: int
    elapsed_seconds: float
    tokens_per_second: float
    statistics: EngineStatistics
    failed_reasons: dict[str, int] = {}
    output_place: str = ""
    warnings: tuple[str, ...] = ()
    input_bytes_found: int = 0
    num_pipeline_restarts: int = 0
    closed_ranges: WorkTotals = WorkTotals()
    open_ranges: WorkTotals = WorkTotals()
    energy: EnergyTotals = EnergyTotals()
    job_energy: EnergyTotals = EnergyTotals()
    power_watts: float | None = None

    @property
    def fraction_done(self) -> float:
        """Share of the input's bytes whose records are written, 0 to 1."""
        if self.input_bytes_total == 0:
            return 1.0
        return min(1.0, self.input_bytes_done / self.input_bytes_total)

    @property
    def estimated_num_requests(self) -> int | None:
        """All requests of the job; None while nothing was read."""
        known = self.closed_ranges + self.open_ranges
        return known.estimate_num_requests(self.input_bytes_total)

    @property
    def remaining_seconds(self) -> float | None:
        """Time left at this run's rate so far; None until it has done one percent."""
        left = max(0, self.input_bytes_total - self.input_bytes_done)
        done_here = self.input_bytes_total - left - self.input_bytes_found
        if done_here < max(1.0, 0.01 * self.input_bytes_total):
            return None
        return self.elapsed_seconds * left / done_here


def tier_name(tier: Tier) -> str:
    return tier.name.lower()


def format_bytes(num_bytes: float) -> str:
    """Binary units, three digits at most: ``17.3 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if num_bytes < 1024 or unit == "TiB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """``3.2 s``, ``4 min 05 s`` or ``7 h 12 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _energy_as_json(energy: EnergyTotals) -> dict[str, float]:
    return {"joules": round(energy.joules, 3), "gpuSeconds": round(energy.gpu_seconds, 3)}


def format_energy(energy: EnergyTotals) -> str:
    """``1.204 kWh over 2.30 GPU-hours``; what is not measured is left out."""
    hours = f"{energy.gpu_seconds / 3600:.3g} GPU-hours"
    if not energy.joules:
        return hours
    kwh = energy.joules / 3.6e6
    used = f"{kwh:.3g} kWh" if kwh >= 0.1 else f"{energy.joules:.0f} J"
    return f"{used} over {hours}"


def progress_as_json(
    snapshot: ProgressSnapshot,
    preflight: Iterable[Mapping[str, str]] = (),
    ledger_mark: str = "",
) -> bytes:
    """The body of ``/progress``: what the operator's status loop reads. ``preflight``: what the
    checks before the start have found. ``ledger_mark``: the same for workers that share the output,
    where several nodes have to."""
    body = {
        "job": snapshot.job_name,
        "phase": snapshot.phase,
        "requests": {
            "done": snapshot.num_done,
            "failed": snapshot.num_failed,
            "inFlight": snapshot.num_in_flight,
            "estimatedTotal": snapshot.estimated_num_requests,
        },
        "closedRanges": snapshot.closed_ranges.as_json(),
        "openRanges": snapshot.open_ranges.as_json(),
        "failedReasons": snapshot.failed_reasons,
        "inputBytes": {"total": snapshot.input_bytes_total, "done": snapshot.input_bytes_done},
        "fractionDone": round(snapshot.fraction_done, 6),
        "elapsedSeconds": round(snapshot.elapsed_seconds, 3),
        "remainingSeconds": snapshot.remaining_seconds,
        "tokensPerSecond": round(snapshot.tokens_per_second, 3),
        **_statistics_as_json(snapshot.statistics),
        "energy": _energy_as_json(snapshot.energy),
        "jobEnergy": _energy_as_json(snapshot.job_energy),
        "powerWatts": snapshot.power_watts,
        "pipelineRestarts": snapshot.num_pipeline_restarts,
        "output": snapshot.output_place,
        "warnings": list(snapshot.warnings),
        "preflight": list(preflight),
        "ledgerMark": ledger_mark,
    }
    return msgspec.json.encode(body)


def _statistics_as_json(statistics: EngineStatistics) -> dict[str, object]:
    """What the engine says, by the page's fields."""
    return {
        "tokens": {
            "prompt": statistics.num_prompt_tokens,
            "generated": statistics.num_generated_tokens,
            "cached": statistics.num_cached_tokens,
            "recomputed": statistics.num_recomputed_tokens,
            "restored": statistics.num_restored_tokens,
        },
        "kvBlocks": {
            tier_name(o.tier): {"used": o.num_used, "cached": o.num_cached, "free": o.num_free}
            for o in statistics.occupancy
        },
        "kvSwapBytes": {
            f"{tier_name(c.source)}-{tier_name(c.target)}": c.num_bytes for c in statistics.copies
        },
        "engineRequests": {
            "waiting": statistics.num_waiting,
            "running": statistics.num_running,
            "preempted": statistics.num_preempted,
        },
        "stageSeconds": [
            {
                "stage": stage.stage,
                "compute": round(stage.compute_seconds, 6),
                "stall": round(stage.stall_seconds, 6),
                "wait": round(stage.wait_seconds, 6),
            }
            for stage in statistics.stages
        ],
    }
