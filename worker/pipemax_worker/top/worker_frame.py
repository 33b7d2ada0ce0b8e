"""Workers of one machine as a person sees them: a block for each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.telemetry.progress import format_bytes, format_energy, format_seconds
from pipemax_worker.top.rates import Rates, StageShares
from pipemax_worker.top.table import Column, build_table, percent
from pipemax_worker.top.worker_page import Blocks, WorkerPage

MAX_BAR_WIDTH = 78
MIN_TEXT_WIDTH = 20
_BAR_CELLS = 20
_TITLE_WIDTH = 10


def draw_workers(
    pages: Mapping[str, WorkerPage],
    rates: Mapping[str, Rates],
    faults: Mapping[str, str],
    width: int,
) -> RenderableType:
    """``pages`` by the place that answered, ``faults`` by one that did not."""
    parts: list[RenderableType] = []
    for place, page in pages.items():
        parts += [*_draw_worker(place, page, rates[place], width), Text()]
    parts += [Text(fault, style="red") for fault in faults.values()]
    return Group(*parts)


def _draw_worker(
    place: str, page: WorkerPage, rates: Rates, width: int
) -> Iterator[RenderableType]:
    yield Text.assemble((page.job, "bold"), f"  {page.phase}  ", (place, "dim"))
    yield Text(draw_share(page.fraction_done, min(width, MAX_BAR_WIDTH)))
    yield _said("requests", _describe_progress(page), width)
    yield _said("tokens/s", _describe_speed(page, rates), width)
    if page.kv_blocks:
        yield Text()
        yield build_table(_TIER_COLUMNS, page.kv_blocks.items(), width)
        yield _said("swap", _describe_swaps(rates), width)
    if rates.stages:
        yield Text()
        yield build_table(_STAGE_COLUMNS, rates.stages, width)
    if energy := _describe_energy(page, rates):
        yield _said("energy", energy, width)
    yield from (_said("warning", warning, width, "yellow") for warning in page.warnings)


def _said(title: str, text: str, width: int, style: str = "") -> Text:
    """What is too long goes on below itself."""
    lines = textwrap.wrap(text, max(MIN_TEXT_WIDTH, width - _TITLE_WIDTH)) or [""]
    rest = [f"{'':{_TITLE_WIDTH}}{line}" for line in lines[1:]]
    return Text("\n".join([f"{title:{_TITLE_WIDTH}}{lines[0]}", *rest]), style=style)


def _describe_progress(page: WorkerPage) -> str:
    requests, left = page.requests, page.remaining_seconds
    total = f" of about {requests.estimated_total}" if requests.estimated_total else ""
    parts = [f"{page.fraction_done:.0%} done", f"{requests.done}{total} requests"]
    if requests.failed:
        parts.append(f"{requests.failed} failed")
    parts.append(f"{requests.in_flight} in flight")
    parts.append(f"runs {format_seconds(page.elapsed_seconds)}")
    if left is not None:
        parts.append(f"{format_seconds(left)} left")
    if page.pipeline_restarts:
        parts.append(f"{page.pipeline_restarts} pipeline restarts")
    return ", ".join(parts)


def _describe_speed(page: WorkerPage, rates: Rates) -> str:
    engine = page.engine_requests
    basis = "since the start" if rates.is_average else f"{page.tokens_per_second:.0f} on average"
    return (
        f"{rates.generated_tokens:.0f} generated, {rates.prompt_tokens:.0f} computed of "
        f"prompts ({basis}); {engine.running} running, {engine.waiting} waiting, "
        f"{engine.preempted} preempted"
    )


def _describe_swaps(rates: Rates) -> str:
    moved = ", ".join(
        f"{link.replace('-', ' to ')} {format_bytes(value)}/s"
        for link, value in rates.swap_bytes.items()
        if value
    )
    return moved or "nothing moves"


def _describe_energy(page: WorkerPage, rates: Rates) -> str:
    energy = EnergyTotals(page.energy.joules, page.energy.gpu_seconds)
    if not energy:
        return ""
    parts = [] if page.power_watts is None else [f"{page.power_watts:.0f} W"]
    parts.append(format_energy(energy))
    if rates.tokens_per_joule is not None:
        parts.append(f"{rates.tokens_per_joule:.3g} generated tokens/J")
    return ", ".join(parts)


def draw_share(share: float, num_cells: int = _BAR_CELLS) -> str:
    """A bar of characters; one that is not quite full does not look it."""
    full = int(num_cells * min(1.0, max(0.0, share)))
    return "█" * full + "·" * (num_cells - full)


_TIER_COLUMNS: tuple[Column[tuple[str, Blocks]], ...] = (
    Column("tier", lambda row: f"{row[0]:<8}", is_number=False),
    Column("", lambda row: draw_share(row[1].used_share), min_width=60, is_number=False),
    Column("used", lambda row: percent(row[1].used_share)),
    Column("blocks", lambda row: str(row[1].used)),
    Column("cached", lambda row: str(row[1].cached)),
    Column("free", lambda row: str(row[1].free)),
)

_STAGE_COLUMNS: tuple[Column[StageShares], ...] = (
    Column("stage", lambda stage: f"{stage.stage:<8}", is_number=False),
    Column("", lambda stage: draw_share(stage.compute), min_width=60, is_number=False),
    Column("computes", lambda stage: percent(stage.compute)),
    Column("stalls", lambda stage: percent(stage.stall)),
    Column("waits", lambda stage: percent(stage.wait)),
)
