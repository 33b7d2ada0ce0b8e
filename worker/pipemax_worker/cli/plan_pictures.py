"""`pipemax plan --timeline` and `--plot DIR`: the best run once more, with everything noted."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipemax_worker.engine.policies import POLICIES
from pipemax_worker.planner.plan import Derive, PlanReport
from pipemax_worker.planner.plots.png import write_pictures
from pipemax_worker.planner.plots.terminal import draw_timeline
from pipemax_worker.planner.timeline import record
from pipemax_worker.planner.workload import Workload

_WIDTH = 80


def draw_best_run(
    report: PlanReport, derive: Derive, workload: Workload, folder: Path | None
) -> None:
    """In the terminal, and as PNG files into ``folder``. Systems that are simulated alone have no
    stages to draw: then it is the best policy of our engine. Raises PreflightError, OutputError."""
    rows = [row for row in report.rows if row.policy in POLICIES]
    if not rows:
        print("nothing to draw: of these policies none is our engine's")
        return
    best = max(rows, key=lambda row: row.result.output_tokens_per_second)
    _, timeline = record(derive(best.choice), workload)
    title = (
        f"{best.policy}, {report.num_gpus} x {report.hardware}, {len(workload.lengths)} requests"
    )
    console = Console(width=_WIDTH, highlight=False)
    console.print()
    console.print(title, soft_wrap=True)
    for line in draw_timeline(timeline):
        console.print(line)
    if folder is not None:
        for path in write_pictures(timeline, f"{title} (simulated)", folder):
            console.print(f"wrote {path}", soft_wrap=True)
