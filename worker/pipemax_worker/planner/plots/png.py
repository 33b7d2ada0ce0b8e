"""A run's timeline as PNG files. matplotlib is imported when a picture is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.errors import OutputError, PreflightError
from pipemax_worker.planner.timeline import (
    LinkUse,
    Timeline,
    Turn,
    link_shares,
    stage_shares,
    tier_shares,
)

_NUM_BINS = 400
_ROUNDS_SHOWN = 3
_LINK_COLOURS = {
    (Tier.HOST, Tier.DEVICE): "tab:cyan",
    (Tier.DEVICE, Tier.HOST): "tab:orange",
    (Tier.HOST, Tier.NVME): "tab:brown",
    (Tier.NVME, Tier.HOST): "tab:pink",
}
_TIER_NAMES = {Tier.DEVICE: "GPUs", Tier.HOST: "host", Tier.NVME: "NVMe"}
_DPI = 120


def write_pictures(timeline: Timeline, title: str, folder: Path) -> tuple[Path, ...]:
    """``timeline.png`` (stages and links), ``tiers.png`` (how full each tier is, and requests).

    Raises PreflightError without matplotlib, OutputError if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (
            _write(_draw_timeline(timeline, title), folder / "timeline.png"),
            _write(_draw_tiers(timeline, title), folder / "tiers.png"),
        )
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _figure(width: float, height: float) -> Any:
    """Without pyplot: no window, no state that is shared."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PreflightError(
            "pictures need matplotlib, which is not installed here; pip install 'pipemax[plots]', "
            "or leave --plot out"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    return path


def _draw_timeline(timeline: Timeline, title: str) -> Any:
    figure = _figure(12, 8)
    above, below = figure.subplots(2, 1, height_ratios=[1, 1.6])
    figure.suptitle(title)
    _draw_shares(above, timeline)
    _draw_rounds(below, timeline)
    return figure


def _draw_shares(axes: Any, timeline: Timeline) -> None:
    """The whole run: one strip a stage, and one for each link of stage 0."""
    stages = range(timeline.num_stages)
    strips = [stage_shares(timeline, stage, _NUM_BINS) for stage in stages]
    names = [f"stage {stage}" for stage in stages]
    for source, target in _LINK_COLOURS:
        shares = link_shares(timeline, source, target, _NUM_BINS)
        if any(shares):
            strips.append(shares)
            names.append(f"{_TIER_NAMES[source]} > {_TIER_NAMES[target]}")
    extent = (0.0, timeline.seconds, len(strips) - 0.5, -0.5)
    image = axes.imshow(
        strips, aspect="auto", vmin=0.0, vmax=1.0, cmap="viridis", extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("seconds")
    axes.set_title("share of the time in which each computes or carries data")
    axes.figure.colorbar(image, ax=axes)


def _draw_rounds(axes: Any, timeline: Timeline) -> None:
    """Some rounds in the middle: micro-batches by colour, the links' copies under each stage."""
    begin, end = middle_rounds(timeline)
    for turn in timeline.turns:
        if turn.end > begin and turn.begin < end:
            _draw_turn(axes, turn)
    for use in timeline.link_uses:
        if use.end > begin and use.begin < end:
            _draw_use(axes, use)
    axes.set_xlim(begin, end)
    axes.set_ylim(timeline.num_stages - 0.3, -0.7)
    axes.set_yticks(range(timeline.num_stages), [f"stage {n}" for n in range(timeline.num_stages)])
    axes.set_xlabel("seconds")
    axes.set_title(
        "some rounds: micro-batches by colour, red where a stage waits for KV; below them loads "
        "(cyan) and stores (orange)"
    )


def _draw_turn(axes: Any, turn: Turn) -> None:
    colour = f"C{turn.micro_batch_id % 10}"
    axes.broken_barh(
        [(turn.begin, turn.end - turn.begin)], (turn.stage - 0.4, 0.5), color=colour, edgecolor="w"
    )
    if turn.stall_seconds:
        start = turn.begin - turn.wait_seconds - turn.stall_seconds
        axes.broken_barh([(start, turn.stall_seconds)], (turn.stage - 0.4, 0.5), color="tab:red")


def _draw_use(axes: Any, use: LinkUse) -> None:
    row = 0.12 if use.source > use.target else 0.25
    colour = _LINK_COLOURS[use.source, use.target]
    axes.broken_barh([(use.begin, use.end - use.begin)], (use.stage + row, 0.11), color=colour)


def middle_rounds(timeline: Timeline) -> tuple[float, float]:
    """(begin, end) of some rounds of all micro-batches about the middle of the run."""
    first = [turn for turn in timeline.turns if turn.stage == 0]
    if not first:
        return 0.0, max(timeline.seconds, 1e-9)
    middle = len(first) // 2
    num_shown = _ROUNDS_SHOWN * len({turn.micro_batch_id for turn in first})
    last = first[min(len(first) - 1, middle + num_shown)]
    return first[middle].begin, max(last.end, first[middle].end)


def _draw_tiers(timeline: Timeline, title: str) -> Any:
    figure = _figure(12, 6)
    above, below = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title)
    step = timeline.seconds / _NUM_BINS
    times = [(number + 1) * step for number in range(_NUM_BINS)]
    for tier, name in _TIER_NAMES.items():
        shares = tier_shares(timeline, tier, _NUM_BINS)
        if any(shares):
            above.plot(times, [100 * share for share in shares], label=name)
    above.set_ylim(0, 102)
    above.set_ylabel("% of the tier's slots with KV of requests")
    above.legend()
    seconds = [look.seconds for look in timeline.looks]
    below.plot(seconds, [look.num_running for look in timeline.looks], label="running")
    below.plot(seconds, [look.num_waiting for look in timeline.looks], label="waiting in the queue")
    below.set_ylabel("requests")
    below.set_xlabel("seconds")
    below.legend()
    return figure
