"""Many InferenceJobs on as many stand-in nodes: what the operator takes, and how long they take.

python tools/operator_scale.py --jobs 1000

A real control plane, the real operator as its pod runs it, nodes and workers that only say what
real ones would. Prints time to all Complete, reconciliations, calls to the API server a job, and
the operator's peak memory and CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "operator", "worker")]

import yaml  # noqa: E402
from kit.control_plane.control_plane import ControlPlane  # noqa: E402
from kit.control_plane.operator_process import OperatorProcess  # noqa: E402
from kit.control_plane.stand_in_fleet import StandInFleet  # noqa: E402
from kit.ports import free_port  # noqa: E402
from pipemax_operator.crd import build_crd  # noqa: E402

NAMESPACE = "scale"
JOBS = f"/apis/pipemax.dev/v1alpha1/namespaces/{NAMESPACE}/inferencejobs"
# What a cluster of a thousand nodes gives its controllers; the default is 20 calls a second.
CLIENT_FLAGS = ("--kube-api-qps=500", "--kube-api-burst=1000")
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.e+-]+)$")


def inference_job(number: int) -> dict[str, Any]:
    name = f"job-{number:05d}"
    return {
        "apiVersion": "pipemax.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"uri": "hostPath:///models/tiny"},
            "input": {"uri": "hostPath:///data/prompts.jsonl"},
            "output": {"uri": f"hostPath:///results/{name}"},
            "kvCache": {"host": "1Gi"},
        },
    }


def start_plane(folder: Path) -> ControlPlane:
    plane = ControlPlane(folder, node_grace_seconds=86400, client_flags=CLIENT_FLAGS)
    plane.start()
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(build_crd()))
    plane.wait_for_kinds("crd/inferencejobs.pipemax.dev")
    plane.kubectl("create", "namespace", NAMESPACE)
    return plane


def read_metrics(operator: OperatorProcess) -> dict[str, dict[str, float]]:
    """Name -> labels as they stand in the text -> value."""
    with urllib.request.urlopen(f"{operator.pages}/metrics", timeout=30) as page:
        text = page.read().decode()
    found: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for line in text.splitlines():
        if match := _SAMPLE.match(line):
            found[match[1]][match[2] or ""] = float(match[3])
    return found


async def run_jobs(
    fleet: StandInFleet, operator: OperatorProcess, num_jobs: int, timeout_seconds: float
) -> dict[str, float]:
    """Seconds from the first job's creation until all are there, and until all are Complete."""
    began = time.monotonic()
    await fleet.create(JOBS, map(inference_job, range(num_jobs)))
    created = time.monotonic() - began
    while True:
        phases = (await asyncio.to_thread(read_metrics, operator))["pipemax_jobs"]
        counts = {text.split('phase="')[1].split('"')[0]: int(n) for text, n in phases.items()}
        seconds = time.monotonic() - began
        print(f"{seconds:6.1f} s  {counts}", flush=True)
        if counts.get("Complete") == num_jobs:
            return {"created": created, "complete": seconds}
        if seconds > timeout_seconds:
            raise TimeoutError(f"not Complete after {seconds:.0f} s: {counts}")
        await asyncio.sleep(max(1.0, num_jobs / 100))


def report(
    times: dict[str, float], metrics: dict[str, dict[str, float]], process_id: int, num_jobs: int
) -> str:
    def total(name: str) -> float:
        return sum(metrics[f"pipemax_{name}"].values())

    by_call: collections.Counter[str] = collections.Counter()
    for labels, value in metrics["pipemax_api_requests_total"].items():
        verb, resource = (re.findall(rf'{key}="(.*?)"', labels)[0] for key in ("verb", "resource"))
        by_call[f"{verb} {resource}"] += int(value)
    lease = sum(n for call, n in by_call.items() if call.endswith("leases"))
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    peak = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    reconciles = total("reconcile_total")
    mean_ms = 1000 * total("reconcile_duration_seconds_sum") / reconciles
    cpu = metrics["process_cpu_seconds_total"][""]
    lines = [
        f"jobs                     {num_jobs} on {num_jobs} stand-in nodes",
        f"all created              {times['created']:.1f} s",
        f"all Complete             {times['complete']:.1f} s",
        f"reconciliations          {reconciles:.0f}, {reconciles / times['complete']:.1f} a second,"
        f" {reconciles / num_jobs:.1f} a job, {mean_ms:.1f} ms each, progress pages included",
        f"failed reconciliations   {total('reconcile_errors_total'):.0f}",
        f"calls to the API server  {(sum(by_call.values()) - lease) / num_jobs:.2f} a job"
        f" (and {lease} for the lease)",
        *(f"  {n / num_jobs:8.3f} a job  {call}" for call, n in by_call.most_common()),
        f"missed by watches        {total('watch_missed_objects_total'):.0f}",
        f"operator peak RSS        {peak:.0f} MiB",
        f"operator CPU             {cpu:.1f} s, {1000 * cpu / num_jobs:.0f} ms a job",
    ]
    return "\n".join(lines)


async def measure(plane: ControlPlane, folder: Path, arguments: argparse.Namespace) -> str:
    port, metrics_port = free_port(), free_port()
    environment = {
        "PIPEMAX_WORKER_SETTINGS": json.dumps({"metrics_port": port}),
        "PIPEMAX_METRICS_PORT": str(metrics_port),
        "PIPEMAX_LEASE": f"{NAMESPACE}/operator",
    }
    token = yaml.safe_load(plane.kubeconfig.read_text())["users"][0]["user"]["token"]
    fleet = StandInFleet(
        *(plane.server, token, str(plane.certificate)),
        *(arguments.jobs, arguments.run_seconds, port),
    )
    operator = OperatorProcess(plane, folder, environment=environment)
    operator.pages = f"http://127.0.0.1:{metrics_port}"
    async with fleet:
        operator.start()
        try:
            times = await run_jobs(fleet, operator, arguments.jobs, arguments.timeout)
            metrics = await asyncio.to_thread(read_metrics, operator)
            return report(times, metrics, operator.process_id, arguments.jobs)
        finally:
            operator.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000, help="and as many nodes")
    parser.add_argument("--run-seconds", type=float, default=60.0, help="how long a pod runs")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="operator-scale-") as folder:
        plane = start_plane(Path(folder) / "plane")
        try:
            print(asyncio.run(measure(plane, Path(folder), arguments)))
        finally:
            plane.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
