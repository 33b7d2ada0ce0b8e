"""Prometheus' part: the metrics of operator and workers, read again and again."""

from __future__ import annotations

import urllib.request

from kit.control_plane.real_node_job import Document, read_metrics


class Scraped:
    """The last samples of each worker and of the operator, and what was seen on the way."""

    def __init__(self) -> None:
        self.workers: dict[str, dict[str, float]] = {}
        self.operator: dict[str, float] = {}
        self.token_counts: set[float] = set()
        self.ratios: set[float] = set()
        self.phases: set[str] = set()

    def add(self, pods: list[Document], operator: dict[str, float]) -> None:
        for pod in pods:
            if samples := read_metrics(pod):
                self.workers[pod["metadata"]["name"]] = samples
                generated = samples.get('pipemax_tokens_total{kind="generated"}')
                self.token_counts |= {generated} if generated else set()
        self.operator = operator or self.operator
        for name, value in operator.items():
            if name.startswith("pipemax_jobs{") and value:
                self.phases.add(name.partition('phase="')[2].partition('"')[0])
            if name.startswith("pipemax_job_progress_ratio{"):
                self.ratios.add(value)


def read_page(address: str, port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
