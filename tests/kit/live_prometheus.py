"""A real Prometheus on loopback, as a process of the test."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.parent_bound import start_bound
from kit.ports import free_port
from kit.prometheus import find_program

START_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """``port`` at ``address``, on loopback. ``keeps_labels``: the exporter's own go before
    ``labels``."""

    name: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    keeps_labels: bool = False
    address: str = "127.0.0.1"

    def as_configuration(self) -> dict[str, Any]:
        return {
            "job_name": self.name,
            "honor_labels": self.keeps_labels,
            "static_configs": [
                {"targets": [f"{self.address}:{self.port}"], "labels": dict(self.labels)}
            ],
        }


class LivePrometheus:
    """Asks the process that :func:`running_prometheus` has started."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """``data`` of the answer. Raises HTTPError where the query is refused."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.address}{path}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """Of all series that it finds now, but for those that are no number."""
        found = self.ask("/api/v1/query", query=query)["result"]
        values = [float(series["value"][1]) for series in found]
        return [value for value in values if math.isfinite(value)]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.ask("/api/v1/rules")["groups"] for rule in group["rules"]]

    def is_ready(self) -> bool:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{self.address}/-/ready", timeout=2),
        ):
            return True
        return False


@contextlib.contextmanager
def running_prometheus(
    folder: Path, targets: Sequence[Target], rules: Path
) -> Iterator[LivePrometheus]:
    """Scrapes ``targets`` and evaluates ``rules`` every second, as long as the block runs."""
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [target.as_configuration() for target in targets],
    }
    file, log, port = folder / "prometheus.yaml", folder / "prometheus.log", free_port()
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    with log.open("wb") as stream:
        process = start_bound(
            [
                *(str(find_program("prometheus")), f"--config.file={file}"),
                *(f"--storage.tsdb.path={folder / 'series'}", "--log.level=warn"),
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stream,
        )
    try:
        prometheus = LivePrometheus(port)
        wait_for(prometheus.is_ready, START_TIMEOUT_SECONDS, lambda: log.read_text("utf-8"))
        yield prometheus
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(
    is_there: Callable[[], bool], timeout_seconds: float, explain: Callable[[], str]
) -> None:
    """Raises AssertionError with what ``explain`` says if it is not in time."""
    deadline = time.monotonic() + timeout_seconds
    while not is_there():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.5)
