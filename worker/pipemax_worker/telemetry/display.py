"""The run as a person sees it: a live panel on a terminal, plain lines elsewhere, a summary."""

from __future__ import annotations

from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.telemetry.progress import (
    ProgressSnapshot,
    format_bytes,
    format_energy,
    format_seconds,
    tier_name,
)

PLAIN_INTERVAL_SECONDS = 10.0


class Display(Protocol):
    def update(self, snapshot: ProgressSnapshot) -> None: ...
    def message(self, text: str) -> None: ...

    def status(self, text: str, elapsed_seconds: float) -> None:
        """What takes its time before there is a snapshot: shown in place, or now and then."""
        ...

    def close(self) -> None: ...


def open_display(stream: TextIO, quiet: bool = False) -> Display:
    """A live panel if ``stream`` is a terminal, else a line every ten seconds."""
    if quiet:
        return PlainDisplay(stream, first_seconds=float("inf"), show_messages=False)
    return LiveDisplay(stream) if stream.isatty() else PlainDisplay(stream)


class PlainDisplay:
    """One line now and then, for logs."""

    def __init__(
        self,
        stream: TextIO,
        interval_seconds: float = PLAIN_INTERVAL_SECONDS,
        first_seconds: float = 2.0,
        show_messages: bool = True,
    ) -> None:
        self._stream = stream
        self._interval_seconds = interval_seconds
        self._show_messages = show_messages
        self._next_seconds = first_seconds
        self._next_status_seconds = first_seconds

    def update(self, snapshot: ProgressSnapshot) -> None:
        if snapshot.elapsed_seconds < self._next_seconds:
            return
        self._next_seconds = snapshot.elapsed_seconds + self._interval_seconds
        print(progress_line(snapshot), file=self._stream, flush=True)

    def message(self, text: str) -> None:
        if self._show_messages:
            print(text, file=self._stream, flush=True)

    def status(self, text: str, elapsed_seconds: float) -> None:
        if elapsed_seconds >= self._next_status_seconds:
            self._next_status_seconds = elapsed_seconds + self._interval_seconds
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to restore."""


class LiveDisplay:
    """A panel redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def update(self, snapshot: ProgressSnapshot) -> None:
        self._live.update(render_panel(snapshot))

    def message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def status(self, text: str, elapsed_seconds: float) -> None:
        self._live.update(Text(text))

    def close(self) -> None:
        self._live.stop()


def progress_line(snapshot: ProgressSnapshot) -> str:
    """One line of a log."""
    remaining = snapshot.remaining_seconds
    left = "" if remaining is None else f", {format_seconds(remaining)} left"
    failed = f", {snapshot.num_failed} failed" if snapshot.num_failed else ""
    return (
        f"{snapshot.job_name}: {snapshot.fraction_done:.0%}, {snapshot.num_done} requests done"
        f"{failed}, {snapshot.num_in_flight} in flight, "
        f"{snapshot.tokens_per_second:.0f} tokens/s{left}"
    )


def render_panel(snapshot: ProgressSnapshot) -> Group:
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(snapshot.job_name, style="bold"),
        ProgressBar(total=1.0, completed=snapshot.fraction_done, width=40),
        Text(progress_line(snapshot).removeprefix(f"{snapshot.job_name}: ")),
    )
    tiers = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    for column in ("tier", "used", "cached", "free"):
        tiers.add_column(column, justify="left" if column == "tier" else "right")
    for occupancy in snapshot.statistics.occupancy:
        tiers.add_row(
            tier_name(occupancy.tier),
            str(occupancy.num_used),
            str(occupancy.num_cached),
            str(occupancy.num_free),
        )
    return Group(bar, tiers, Text(_swap_line(snapshot.statistics), style="dim"))


def _swap_line(statistics: EngineStatistics) -> str:
    parts = [
        f"{tier_name(copy.source)} to {tier_name(copy.target)} {format_bytes(copy.num_bytes)}"
        for copy in statistics.copies
        if copy.num_bytes
    ]
    return "moved: " + (", ".join(parts) if parts else "nothing yet")


def _schema_lines(statistics: EngineStatistics) -> list[str]:
    """Only where answers had to follow a schema."""
    seconds = sum(stage.grammar_wait_seconds for stage in statistics.stages)
    return [f"  schemas   {seconds:.3f} s of waiting for masks"] if seconds else []


def _restored(statistics: EngineStatistics) -> str:
    """Only where an earlier run has parked KV that was of use."""
    number = statistics.num_restored_tokens
    return f", {number} restored" if number else ""


def _energy_lines(snapshot: ProgressSnapshot) -> list[str]:
    """Only where there are GPUs; the whole job's besides, where others had a part in it."""
    if not snapshot.energy:
        return []
    rate = snapshot.energy.tokens_per_joule(snapshot.statistics.num_generated_tokens)
    told = "" if rate is None else f", {rate:.3g} generated tokens/J"
    lines = [f"  energy    {format_energy(snapshot.energy)}{told}"]
    if snapshot.job_energy.gpu_seconds > 1.01 * snapshot.energy.gpu_seconds:
        lines.append(f"            {format_energy(snapshot.job_energy)} by all runs of the job")
    return lines


def _restart_lines(snapshot: ProgressSnapshot) -> list[str]:
    number = snapshot.num_pipeline_restarts
    if not number:
        return []
    return [f"  pipeline  started again {number} {'time' if number == 1 else 'times'}"]


def render_summary(snapshot: ProgressSnapshot) -> str:
    """The last words of a run: what was done, how fast, what moved, where the results are."""
    statistics = snapshot.statistics
    lines = [
        f"{snapshot.job_name}: {snapshot.phase}",
        f"  requests  {snapshot.num_done - snapshot.num_failed} succeeded, "
        f"{snapshot.num_failed} failed",
    ]
    worst = sorted(snapshot.failed_reasons.items(), key=lambda item: -item[1])[:5]
    lines += [f"            {count} x {reason}" for reason, count in worst]
    lines += [
        f"  tokens    {statistics.num_prompt_tokens} prompt"
        f" (+ {statistics.num_cached_tokens} from shared prefixes), "
        f"{statistics.num_generated_tokens} generated, "
        f"{statistics.num_recomputed_tokens} recomputed{_restored(statistics)}",
        f"  speed     {snapshot.tokens_per_second:.1f} generated tokens/s"
        f" over {format_seconds(snapshot.elapsed_seconds)}",
        f"  KV cache  {_swap_line(statistics)}",
        *_schema_lines(statistics),
        *_energy_lines(snapshot),
        *_restart_lines(snapshot),
        f"  results   {snapshot.output_place}",
    ]
    lines += [f"  warning   {warning}" for warning in snapshot.warnings]
    return "\n".join(lines)
