"""Write docs/metrics.md, the reference of all metrics, from the registries that export them.

python tools/generate_metrics.py            write it
python tools/generate_metrics.py --check    exit 1 if the file is not what would be written
python tools/generate_metrics.py --time     what a scrape of each takes
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "operator", "worker")]

from kit.progress import GEOMETRY, STATISTICS, make_snapshot  # noqa: E402
from pipemax_operator.crd_status import PHASES  # noqa: E402
from pipemax_operator.metrics import OperatorMetrics  # noqa: E402
from pipemax_worker.contract.geometry import Tier  # noqa: E402
from pipemax_worker.contract.statistics import LinkRate, StepRecord, TierOccupancy  # noqa: E402
from pipemax_worker.performance.link import LINKS  # noqa: E402
from pipemax_worker.telemetry.energy_meter import GpuReading  # noqa: E402
from pipemax_worker.telemetry.metrics import Metrics  # noqa: E402

PAGE = ROOT / "docs" / "metrics.md"
UNITS = (
    "bytes_per_second",
    "seconds",
    "bytes",
    "tokens",
    "watts",
    "joules",
    "ratio",
    "requests",
    "blocks",
    "info",
)
BOUNDED_LABELS = frozenset(
    ("kind", "phase", "result", "source", "state", "target", "tier"),
)
"""Labels whose values are a fixed set, that the page lists."""

INTRODUCTION = """\
# Metrics

Generated from the registries of worker and operator by `tools/generate_metrics.py`; do not edit.

Base units, no label per request. A worker exports at `/metrics` of its `--port` (pods: port
`metrics`), the operator at its own. The chart's PodMonitor gives a worker's series the labels
`namespace`, `job` (the InferenceJob), `node` and `pod`; a Prometheus that is set up by hand should
do the same, since dashboards and alerts go by them. What alerts mean: [operations](operations.md).
A histogram has the series `_bucket`, `_sum` and `_count`.
"""


def worker_registry() -> CollectorRegistry:
    """Of a run in which every label has had every value."""
    lookups = (*((tier, 1) for tier in Tier), (None, 1))
    full = {
        "occupancy": tuple(TierOccupancy(tier, 1, 1, 1) for tier in Tier),
        "links": tuple(LinkRate(*link, 1e9) for link in LINKS),
        "kv_lookups": lookups,
    }
    figures = type(STATISTICS)(**{**_fields(STATISTICS), **full})
    gpus = (GpuReading(0, 300.0, 5000.0, 20.0),)
    metrics = Metrics(
        lambda: make_snapshot(statistics=figures), GEOMETRY, "1.0", [0.5, 0.5], lambda: gpus
    )
    for num_prefill_tokens in (0, 4, 8):
        metrics.observe_step(StepRecord(0, 8, num_prefill_tokens, 0.01))
    return metrics.registry


def _fields(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__struct_fields__}  # type: ignore[attr-defined]


def operator_metrics(num_jobs: int = 1) -> OperatorMetrics:
    """Of an operator that has seen every phase and all of a job's times."""
    metrics, when = OperatorMetrics(), "2026-11-22T12:00:00Z"
    for phase in PHASES:
        metrics.show("batch", phase.lower(), phase, {})
    for number in range(num_jobs):
        name = f"reviews-{number}"
        progress: dict[str, object] = {"totalRequests": 9, "completed": 3, "failed": 1}
        metrics.show("batch", name, "Running", {**progress, "estimatedCompletionTime": when})
        document = {
            "metadata": {
                **{"namespace": "batch", "name": name, "creationTimestamp": when},
                "deletionTimestamp": when,
            },
            "status": {"phase": "Running", "startTime": when, "attempt": 1},
        }
        metrics.show_energy("batch", name, {"joules": 360_000, "gpuHours": 1.5})
        now = datetime(2026, 11, 22, 13, tzinfo=UTC)
        metrics.show_times(document, now, now)
    with metrics.reconciling():
        metrics.note_event("pods")
        metrics.note_call("patch", "jobs", 200)
    metrics.follow(lambda: True, lambda: 0)
    return metrics


def families() -> dict[str, list[Metric]]:
    """Our own metrics by who exports them; what every Python process exports is left out."""
    registries = {"Worker": worker_registry(), "Operator": operator_metrics().registry}
    return {
        owner: sorted(
            (one for one in registry.collect() if one.name.startswith("pipemax_")),
            key=lambda family: family.name,
        )
        for owner, registry in registries.items()
    }


def exported_name(family: Metric) -> str:
    """As it is in Prometheus: counters end with `_total`."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def series_names() -> set[str]:
    """Every name that a query may use."""
    return {
        name
        for found in families().values()
        for family in found
        for name in {sample.name for sample in family.samples} | {exported_name(family)}
        if not name.endswith("_created")
    }


def render() -> str:
    """The whole page."""
    return "\n".join((INTRODUCTION, *_tables())).rstrip() + "\n"


def _tables() -> Iterator[str]:
    for owner, found in families().items():
        yield f"## {owner}\n"
        yield "| Name | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|"
        for family in found:
            cells = (f"`{exported_name(family)}`", family.type, _unit(family), _labels(family))
            yield f"| {' | '.join(cells)} | {family.documentation} |"
        yield ""


def _unit(family: Metric) -> str:
    return next((u.replace("_", " ") for u in UNITS if family.name.endswith(u)), "-")


def _labels(family: Metric) -> str:
    values: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            values.setdefault(label, []).append(value)
    values.pop("le", None)
    return "; ".join(_label(label, found) for label, found in values.items()) or "-"


def _label(label: str, values: list[str]) -> str:
    if label not in BOUNDED_LABELS:
        return f"`{label}`"
    return f"`{label}`: {', '.join(dict.fromkeys(values))}"


def print_times(num_scrapes: int = 50) -> None:
    """Processor time: median and worst of some scrapes, the operator's with 1,000 jobs."""
    worker = worker_registry()
    scrapes: dict[str, Callable[[], bytes]] = {
        "worker": lambda: generate_latest(worker),
        "operator, 1,000 jobs": operator_metrics(1000).exposition,
    }
    for owner, scrape in scrapes.items():
        seconds = []
        for _ in range(num_scrapes):
            start = time.process_time()
            text = scrape()
            seconds.append(time.process_time() - start)
        print(
            f"{owner}: {1e3 * statistics.median(seconds):.2f} ms a scrape (worst "
            f"{1e3 * max(seconds):.2f} ms), {text.count(b'pipemax_')} lines, {len(text)} bytes"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    parser.add_argument("--time", action="store_true", help="write nothing; time scrapes")
    arguments = parser.parse_args()
    if arguments.time:
        print_times()
    elif not arguments.check:
        PAGE.write_text(render(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render():
        print(f"{PAGE.name} is not what is exported; run tools/generate_metrics.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
