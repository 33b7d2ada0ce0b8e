"""Shows a run's metrics, as a GPU machine has kept them, to a real Prometheus, and asks it what the
dashboards' panels ask.

    python tools/gpu_panels.py out/gpu-acceptance/metrics.jsonl

Each line of the file is one scrape (``tools/gpu_job.py --metrics``): {"at": seconds, "text": ...}.
They are moved in time, so that the last is of a minute ago, and get the labels that a cluster's
scrape adds. A row for each panel of the workers' series; exits 1 if one that asks for a GPU's
series has no data. What the operator tells of jobs is not there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "worker")]

from kit.dashboards import DASHBOARDS, Panel, fill_in, panels_of  # noqa: E402
from kit.live_prometheus import LivePrometheus, running_prometheus  # noqa: E402
from kit.prometheus import find_program  # noqa: E402

Scrape = tuple[float, str]

LABELS = 'namespace="default",job="gpu-job",node="gpu-machine",pod="gpu-job-0"'
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
OF_GPUS, OF_OPERATOR = "pipemax_gpu_", "pipemax_job_"
END_SECONDS_AGO = 60.0
NUM_LOOKS = 5


def read_scrapes(path: Path) -> list[Scrape]:
    """Raises ValueError where there are too few to have a rate."""
    lines = map(json.loads, path.read_text("utf-8").splitlines())
    scrapes = [(float(line["at"]), str(line["text"])) for line in lines]
    if len(scrapes) < 3:
        raise ValueError(f"{path}: {len(scrapes)} scrapes are too few")
    return scrapes


def moved_to_now(scrapes: Sequence[Scrape], now: float) -> list[Scrape]:
    """Prometheus forgets what is old."""
    shift = now - END_SECONDS_AGO - scrapes[-1][0]
    return [(at + shift, text) for at, text in scrapes]


def as_open_metrics(scrapes: Sequence[Scrape]) -> Iterator[str]:
    """Lines of samples with their times, each metric's together, as the format wants them."""
    lines: dict[str, list[str]] = {}
    for at, text in scrapes:
        for name, labels, value in SAMPLE.findall(text):
            told = f"{labels.rstrip(',')},{LABELS}" if labels else LABELS
            lines.setdefault(name, []).append(f"{name}{{{told}}} {value} {at:.3f}")
    for of_metric in lines.values():
        yield from of_metric
    yield "# EOF"


def fill_storage(folder: Path, scrapes: Sequence[Scrape]) -> None:
    """Prometheus' own files, below ``folder``. Raises CalledProcessError."""
    source, target = folder / "metrics.om", folder / "series"
    source.write_text("\n".join(as_open_metrics(scrapes)) + "\n", encoding="utf-8")
    command = [find_program("promtool"), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*command, source, target], check=True, capture_output=True)


def worker_panels() -> list[Panel]:
    panels = [panel for one in DASHBOARDS for panel in panels_of(one)]
    return [panel for panel in panels if not any(OF_OPERATOR in query for query in panel.queries)]


def has_data(prometheus: LivePrometheus, panel: Panel, times: Sequence[float]) -> bool:
    """Whether any of its queries finds a series at any of the times."""
    return any(
        prometheus.ask("/api/v1/query", query=fill_in(query), time=f"{at:.3f}")["result"]
        for query in panel.queries
        for at in times
    )


def look_times(scrapes: Sequence[Scrape]) -> list[float]:
    """Spread over the run, its very begin left out."""
    first, last = scrapes[0][0], scrapes[-1][0]
    return [first + (last - first) * (n + 1) / NUM_LOOKS for n in range(NUM_LOOKS)]


def show(scrapes: Sequence[Scrape]) -> bool:
    """Prints a row for each panel; whether all of GPUs have data."""
    is_good = True
    with tempfile.TemporaryDirectory(prefix="gpu-panels-") as name:
        folder = Path(name)
        fill_storage(folder, scrapes)
        with running_prometheus(folder, (), folder / "no-rules.yaml") as prometheus:
            for panel in worker_panels():
                is_there = has_data(prometheus, panel, look_times(scrapes))
                is_of_gpus = any(OF_GPUS in query for query in panel.queries)
                is_good &= is_there or not is_of_gpus
                kind = "GPU" if is_of_gpus else "   "
                said = "data" if is_there else "none"
                print(f"{kind} {said}  {panel.dashboard}: {panel.title}", flush=True)
    return is_good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("metrics", type=Path, metavar="JSONL")
    options = parser.parse_args(arguments)
    try:
        scrapes = read_scrapes(options.metrics)
    except (OSError, ValueError, KeyError) as error:
        print(f"gpu_panels: {error}")
        return 2
    return 0 if show(moved_to_now(scrapes, time.time())) else 1


if __name__ == "__main__":
    sys.exit(main())
