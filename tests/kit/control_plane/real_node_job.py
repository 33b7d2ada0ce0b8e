"""A job of the tiny model for real nodes: its places on this machine, its document, its answers."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.real_node import NODE_LABEL, RealNode
from kit.control_plane.real_node_image import IMAGE, host_mounts

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "manifests" / "examples" / "quickstart"
WORKER_USER = 10001
METRICS_PORT = 9400
MAX_QUESTION_CHARACTERS = 80

Document = dict[str, Any]


def worker_settings(**more: Any) -> dict[str, str]:
    """The operator's environment: workers run from this machine's own checkout, by mounts that the
    chart's values offer to every user."""
    volumes, mounts = host_mounts()
    settings: Document = {
        "image": IMAGE,
        "image_pull_policy": "Never",
        "command": [str(Path(sys.prefix) / "bin" / "pipemax")],
        "environment": {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        "extra_volumes": volumes,
        "extra_volume_mounts": mounts,
        "shared_memory_bytes": 2**30,
        "memory_overhead_bytes": 4 * 2**30,
        "gpus_for_cpu_jobs": 8,
        "poll_seconds": 0.5,
    }
    return {"PIPEMAX_WORKER_SETTINGS": json.dumps(settings | more)}


class RealNodeJob:
    """One job and its folders. ``output`` is shared by all nodes, as NFS is."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        host: Path,
        num_files: int,
        lines_per_file: int,
        name: str = "quickstart",
    ) -> None:
        self.plane, self.namespace, self.name = plane, namespace, name
        self.folder = host / f"jobs-{namespace}"
        self.input = self.folder / "input"
        self.output = self.folder / "output"
        for folder in (self.folder, self.input, self.output):
            folder.mkdir()
        os.chown(self.output, WORKER_USER, WORKER_USER)
        lines = (EXAMPLE / "prompts.jsonl").read_bytes().splitlines(keepends=True)
        self.lines = [*filter(_is_short, lines)][: num_files * lines_per_file]
        for number in range(num_files):  # each file is a range: what one worker takes at a time
            some = self.lines[number * lines_per_file : (number + 1) * lines_per_file]
            (self.input / f"{number}.jsonl").write_bytes(b"".join(some))

    def document(self, nvme: Path, stages: int, nodes: int = 1, **spec: Any) -> Document:
        """The example, with places on the nodes. ``spec`` replaces fields of its spec."""
        document: Document = yaml.safe_load((EXAMPLE / "job.yaml").read_text(encoding="utf-8"))
        model = {**document["spec"]["model"], "uri": f"hostPath://{ROOT / 'models' / 'tiny'}"}
        document["spec"] |= {
            "model": model,
            "input": {"uri": f"hostPath://{self.input}/*.jsonl"},
            "output": {"uri": f"hostPath://{self.output}", "shared": True},
            "parallelism": {"nodes": nodes, "stagesPerNode": stages},
            "kvCache": {"host": "64Mi", "nvme": {"hostPath": str(nvme), "size": "64Mi"}},
            "gracePeriodSeconds": 20,
        }
        document["spec"] |= spec
        document["metadata"]["name"] = self.name
        return document

    def apply(self, document: Document) -> None:
        self._applied_seconds = time.monotonic()
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=yaml.safe_dump(document))

    def note(self, event: str) -> None:
        """For `pytest -rP`: when it happened, since the job was applied."""
        print(f"{time.monotonic() - self._applied_seconds:6.1f} s  {event}")

    def patch(self, spec: Document) -> None:
        self._command("patch", "ij", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def status(self) -> Document:
        found: Document = self.plane.get("ij", self.name, "-n", self.namespace).get("status", {})
        return found

    def row(self) -> str:
        """What ``kubectl get inferencejobs`` prints."""
        return self._command("get", "inferencejobs", "--no-headers").strip()

    def pods(self) -> list[Document]:
        found: list[Document] = self.plane.get("pods", "-n", self.namespace)["items"]
        return found

    def log(self, pod: str) -> str:
        return self.plane.kubectl("logs", pod, "-n", self.namespace, check=False)

    @contextlib.contextmanager
    def watching_exit_codes(self) -> Iterator[Callable[[], set[int]]]:
        """The exit codes of the worker's containers, also of pods that are deleted at once."""
        path = "{.object.status.containerStatuses[*].state.terminated.exitCode}"
        command = ["get", "pods", "-n", self.namespace, "--watch", "--output-watch-events"]
        with open(self.folder / "exit-codes", "w+b") as seen:
            watch = subprocess.Popen(
                [self.plane.kubectl_path, *command, "-o", f"jsonpath={path}{{'\\n'}}"],
                env=os.environ | {"KUBECONFIG": str(self.plane.kubeconfig)},
                stdin=subprocess.DEVNULL,
                stdout=seen,
            )
            try:
                yield lambda: {int(code) for code in Path(seen.name).read_text().split()}
            finally:
                watch.kill()
                watch.wait()

    def describe(self) -> str:
        """All that Kubernetes knows, for a test that fails."""
        parts = [self._command("get", "ij,jobs,pods", "-o", "wide"), self._command("events")]
        parts += [self.log(pod["metadata"]["name"])[-3000:] for pod in self.pods()]
        return "\n".join([*parts, json.dumps(self.status(), indent=1)])

    def num_records(self) -> int:
        files = list((self.output / "results").glob("*.jsonl"))
        return sum(path.read_bytes().count(b"\n") for path in files)

    def writers(self) -> Counter[str]:
        """How many records each worker has written so far."""
        files = sorted((self.output / "results").glob("*.jsonl"))
        records = [json.loads(line) for path in files for line in path.read_bytes().splitlines()]
        return Counter(record["pipemax"]["worker"] for record in records)

    def check_answers(self) -> None:
        """Every request has one record, and 99 % of the answers are right."""
        tally = self.tally()
        assert tally.passes, tally.wrong[:10]
        assert self.num_records() == len(self.lines), tally.wrong[:10]

    def tally(self) -> Any:
        """What ``tools/check_answers.py`` says of the records that there are."""
        sys.path.insert(0, str(ROOT / "tools"))
        try:
            tool: Any = importlib.import_module("check_answers")
        finally:
            sys.path.remove(str(ROOT / "tools"))
        requests = [json.loads(line) for line in self.lines]
        return tool.check(requests, tool.read_records(self.output))

    def _command(self, *arguments: str) -> str:
        return self.plane.kubectl(*arguments, "-n", self.namespace)


def _is_short(line: bytes) -> bool:
    """A long answer would keep a whole pipeline waiting."""
    body = json.loads(line)["body"]
    question = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return len(question) < MAX_QUESTION_CHARACTERS


def pin_to(node: RealNode) -> Document:
    """``spec.scheduling`` for that node alone."""
    return {"nodeSelector": {NODE_LABEL: node.name}}


def read_metrics(pod: Document) -> dict[str, float]:
    """A worker's samples: by name with labels, and by name alone as their sum. Empty while it
    serves none."""
    address = pod["status"].get("podIP", "")
    try:
        with urllib.request.urlopen(f"http://{address}:{METRICS_PORT}/metrics", timeout=30) as page:
            text = page.read().decode()
    except OSError:
        return {}
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
            if "{" in name:
                family = name.partition("{")[0]
                samples[family] = samples.get(family, 0.0) + float(value)
    return samples
