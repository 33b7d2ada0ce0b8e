"""A plan as text for a terminal of 80 columns. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.planner.limits import TimeShares
from pipemax_worker.planner.plan import PlanReport, PlanRow

_HEADER = (
    "policy", "out tok/s", "all tok/s", "steady", "job", "tok/step", "busy", "$/M out", "kWh/M out"
)  # fmt: skip
_NAME_WIDTH = 9
_WIDTHS = (10, 10, 8, 9, 9, 6, 8, 10)
_SHARES = (
    "policy", "weights", "KV", "arithm.", "fixed", "link", "bubbles", "(host link", "NVMe busy)"
)  # fmt: skip
_SHARE_WIDTHS = (8, 6, 8, 7, 6, 9, 12, 11)
_HOUR, _MINUTE = 3600, 60


def describe_plan(report: PlanReport) -> Iterator[str]:
    """Line by line."""
    yield from _describe_ground(report)
    rows = sorted(report.rows, key=lambda row: -row.result.output_tokens_per_second)
    yield ""
    name_width = max(len(row.policy) for row in rows) + 1
    yield _line(_HEADER, _WIDTHS, name_width)
    for row in rows:
        yield _line(_cells(row), _WIDTHS, name_width)
    yield ""
    yield "where the time of the busiest stage goes:"
    yield _line(_SHARES, _SHARE_WIDTHS, name_width)
    for row in rows:
        if row.shares is not None:
            yield _line(_share_cells(row.policy, row.shares), _SHARE_WIDTHS, name_width)
    yield ""
    for row in rows:
        yield f"{row.policy}: limited by {row.limit}"
    for policy, fault in report.refused:
        yield f"{policy}: cannot run there: {fault}"
    yield ""
    yield from _describe_best(report)


def _describe_ground(report: PlanReport) -> Iterator[str]:
    yield f"{report.num_gpus} x {report.hardware}; a simulation, nothing was measured here"
    layers = ModelCut(report.layers_of_stage, report.mlp_left_by_stage).describe()
    yield (
        f"layers {layers}; KV: {report.device_kv_tokens:,} tokens on the GPUs, "
        f"{report.host_kv_tokens:,} in host memory"
    )
    text = (
        f"{report.num_simulated:,} requests simulated a policy; settings tried on "
        f"{report.num_sampled:,} of them"
    )
    more = report.num_requests - report.num_simulated
    yield text + (f"; {more:,} more at the steady rate" if more > 0 else "")


def _describe_best(report: PlanReport) -> Iterator[str]:
    best = report.best
    yield (
        f"best: policy {best.policy}, maxBatchedTokens {best.token_target}, microBatches "
        f"{best.num_micro_batches}, host tier {'on' if best.has_host_tier else 'off'}: "
        f"{best.result.output_tokens_per_second:,.0f} output tokens/s, the job in "
        f"{describe_seconds(best.job_seconds)}"
    )
    if report.fp8 is not None:
        ours = next(row for row in report.rows if row.policy == report.fp8.policy)
        gain = ours.result.seconds / report.fp8.result.seconds - 1
        yield (
            f"with kvDtype fp8_e4m3, which rounds: "
            f"{report.fp8.result.output_tokens_per_second:,.0f} output tokens/s ({gain:+.0%})"
        )


def _cells(row: PlanRow) -> tuple[str, ...]:
    result = row.result
    busy = sum(result.busy_ratios) / max(1, len(result.busy_ratios))
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


def _share_cells(policy: str, shares: TimeShares) -> tuple[str, ...]:
    numbers = (
        shares.weights, shares.kv_reading, shares.arithmetic, shares.fixed, shares.link,
        shares.bubbles, shares.host_link, shares.nvme,
    )  # fmt: skip
    return (policy, *(f"{number:.0%}" for number in numbers))


def _line(cells: tuple[str, ...], widths: tuple[int, ...], name_width: int) -> str:
    """Systems with long names have wider tables: the usual ones stay below 80 columns."""
    first, *rest = cells
    padded = (cell.rjust(width) for cell, width in zip(rest, widths, strict=True))
    return first.ljust(max(_NAME_WIDTH, name_width)) + "".join(padded)


def describe_seconds(seconds: float) -> str:
    if seconds >= _HOUR:
        return f"{seconds / _HOUR:.1f} h"
    if seconds >= _MINUTE:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds:.1f} s"
