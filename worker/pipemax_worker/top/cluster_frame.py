"""A cluster's jobs and workers as a person sees them: two tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from pipemax_worker.telemetry.progress import format_bytes
from pipemax_worker.top.cluster import JobLine, PodLine
from pipemax_worker.top.rates import Rates
from pipemax_worker.top.read_cluster import ClusterPicture
from pipemax_worker.top.table import Column, build_table, percent
from pipemax_worker.top.worker_page import WorkerPage

MIN_JOBS_SHOWN = 5
_LINES_BESIDE_ROWS = 6
"""Title, two heads, what is hidden, and space between."""


class _WorkerRow(NamedTuple):
    """``page`` and ``rates``: None of a worker that did not answer."""

    pod: PodLine
    page: WorkerPage | None
    rates: Rates | None


def draw_cluster(
    picture: ClusterPicture, rates: Mapping[str, Rates], width: int, height: int | None
) -> RenderableType:
    """``height`` of the terminal bounds how many jobs are shown; None: all of them."""
    jobs = _fit(picture.jobs, len(picture.pods) + len(picture.notes), height)
    parts: list[RenderableType] = [Text(_describe_phases(picture.jobs), style="bold"), Text()]
    if jobs:
        parts.append(build_table(_JOB_COLUMNS, jobs, width))
    if num_hidden := len(picture.jobs) - len(jobs):
        parts.append(Text(f"and {num_hidden} more", style="dim"))
    if picture.pods:
        rows = [_row(pod, picture, rates) for pod in picture.pods]
        parts += [Text(), build_table(_WORKER_COLUMNS, rows, width)]
    parts += [Text(note, style="yellow") for note in picture.notes]
    return Group(*parts)


def _fit(jobs: Sequence[JobLine], num_lines: int, height: int | None) -> Sequence[JobLine]:
    """As many as the terminal has room for beside so many other lines."""
    if height is None:
        return jobs
    return jobs[: max(MIN_JOBS_SHOWN, height - num_lines - _LINES_BESIDE_ROWS)]


def _describe_phases(jobs: Sequence[JobLine]) -> str:
    if not jobs:
        return "no InferenceJobs"
    counted = Counter(job.phase for job in jobs)
    rate = sum(job.tokens_per_second or 0 for job in jobs if job.phase == "Running")
    named = ", ".join(f"{count} {phase}" for phase, count in counted.items())
    plural = "" if len(jobs) == 1 else "s"
    return f"{len(jobs)} InferenceJob{plural}: {named}; {rate} tokens/s"


def _row(pod: PodLine, picture: ClusterPicture, rates: Mapping[str, Rates]) -> _WorkerRow:
    name = f"{pod.namespace}/{pod.name}"
    return _WorkerRow(pod, picture.pages.get(name), rates.get(name))


def _remaining(job: JobLine) -> str:
    return job.remaining if job.phase == "Running" else ""


def _rate(job: JobLine) -> str:
    is_known = job.phase == "Running" and job.tokens_per_second is not None
    return str(job.tokens_per_second) if is_known else ""


def _hours(job: JobLine) -> str:
    return "" if job.gpu_hours is None else f"{job.gpu_hours:.2f}"


def _kwh(job: JobLine) -> str:
    return "" if job.joules is None else f"{job.joules / 3.6e6:.3g}"


def _swapped(job: JobLine) -> str:
    return format_bytes(sum(job.swap_bytes.values())) if job.swap_bytes else ""


_JOB_COLUMNS: tuple[Column[JobLine], ...] = (
    Column("namespace", lambda job: job.namespace, min_width=60, is_number=False),
    Column("job", lambda job: job.name, is_number=False),
    Column("phase", lambda job: job.phase, is_number=False),
    Column("reason", lambda job: job.reason, min_width=110, is_number=False),
    Column("done", lambda job: job.percent),
    Column("requests", lambda job: job.summary, min_width=90),
    Column("failed", lambda job: str(job.num_failed) if job.num_failed else "", min_width=100),
    Column("tokens/s", _rate),
    Column("left", _remaining),
    Column("GPU-hours", _hours, min_width=110),
    Column("kWh", _kwh, min_width=110),
    Column("swapped", _swapped, min_width=130),
)


def _tier(name: str) -> Column[_WorkerRow]:
    def cell(row: _WorkerRow) -> str:
        blocks = row.page.kv_blocks.get(name) if row.page else None
        return "" if blocks is None else percent(blocks.used_share)

    return Column(name, cell, min_width=70)


def _swap(title: str, link: str, min_width: int) -> Column[_WorkerRow]:
    def cell(row: _WorkerRow) -> str:
        return f"{format_bytes(row.rates.swap_bytes.get(link, 0))}/s" if row.rates else ""

    return Column(title, cell, min_width)


def _tokens(row: _WorkerRow) -> str:
    return f"{row.rates.generated_tokens:.0f}" if row.rates else "no answer"


def _stall(row: _WorkerRow) -> str:
    return percent(row.rates.stall_share) if row.rates else ""


def _watts(row: _WorkerRow) -> str:
    watts = row.page.power_watts if row.page else None
    return "" if watts is None else f"{watts:.0f}"


_WORKER_COLUMNS: tuple[Column[_WorkerRow], ...] = (
    Column("worker", lambda row: row.pod.name, is_number=False),
    Column("node", lambda row: row.pod.node, min_width=80, is_number=False),
    Column("tokens/s", _tokens),
    _tier("device"),
    _tier("host"),
    _tier("nvme"),
    _swap("host to device", "host-device", 90),
    _swap("device to host", "device-host", 105),
    _swap("nvme to host", "nvme-host", 130),
    _swap("host to nvme", "host-nvme", 130),
    Column("stalls", _stall),
    Column("W", _watts, min_width=120),
)
