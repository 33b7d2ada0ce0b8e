"""A plan as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.planner.plan import PlanReport, PlanRow

_HEADER = (
    "policy", "out tok/s", "all tok/s", "steady", "job", "tok/step", "busy", "$/M out", "kWh/M out"
)  # fmt: skip
_WIDTHS = (9, 10, 10, 8, 9, 9, 6, 8, 10)
_HOUR, _MINUTE = 3600, 60


def describe_plan(report: PlanReport) -> Iterator[str]:
    yield f"{report.num_gpus} x {report.hardware}; a simulation, nothing was measured here"
    layers = "/".join(map(str, report.layers_of_stage))
    yield (
        f"layers {layers}; KV: {report.device_kv_tokens:,} tokens on the GPUs, "
        f"{report.host_kv_tokens:,} in host memory"
    )
    yield ""
    yield _line(_HEADER)
    for row in sorted(report.rows, key=lambda row: -row.result.output_tokens_per_second):
        yield _line(_cells(row))
    yield ""
    for row in report.rows:
        yield f"{row.policy}: limited by {row.limit}"
    best = report.best
    yield ""
    yield (
        f"best: policy {best.policy}, maxBatchedTokens {best.token_target}, microBatches "
        f"{best.num_micro_batches}, host tier {'on' if best.has_host_tier else 'off'}: "
        f"{best.result.output_tokens_per_second:,.0f} output tokens/s, the job in "
        f"{describe_seconds(best.job_seconds)}"
    )


def _cells(row: PlanRow) -> tuple[str, ...]:
    result = row.result
    busy = sum(result.busy_ratios) / len(result.busy_ratios)
    return (
        row.policy,
        f"{result.output_tokens_per_second:,.0f}",
        f"{result.tokens_per_second:,.0f}",
        f"{result.steady_output_tokens_per_second:,.0f}",
        describe_seconds(row.job_seconds),
        f"{result.mean_batch_tokens:.0f}",
        f"{busy:.0%}",
        f"{row.cost.dollars_per_million:.2f}",
        f"{row.cost.kwh_per_million:.2f}",
    )


def _line(cells: tuple[str, ...]) -> str:
    first, *rest = cells
    padded = (cell.rjust(width) for cell, width in zip(rest, _WIDTHS[1:], strict=True))
    return first.ljust(_WIDTHS[0]) + "".join(padded)


def describe_seconds(seconds: float) -> str:
    if seconds >= _HOUR:
        return f"{seconds / _HOUR:.1f} h"
    if seconds >= _MINUTE:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds:.1f} s"
