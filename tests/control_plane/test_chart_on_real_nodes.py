"""From ``helm install`` to records: the operator is its own Deployment's pod, workers are pods on
two real nodes, and all that a user types is typed here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.chart import CHART
from kit.control_plane.chart_install import Shell, chart_values, own_address, watching
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.minimal_example import MinimalExample
from kit.control_plane.real_node_job import WORKER_USER, Document, RealNodeJob
from kit.control_plane.required_nodes import Nodes, required_nodes
from kit.control_plane.running_job import eventually as wait
from kit.control_plane.running_job import running_pods
from kit.control_plane.scraping import Scraped, read_page

pytestmark = pytest.mark.xdist_group("real-nodes")

NUM_FILES, LINES_PER_FILE = 12, 6
NUM_REQUESTS = NUM_FILES * LINES_PER_FILE
SUMMARY = f"{NUM_REQUESTS}/{NUM_REQUESTS}"
OPERATOR_METRICS_PORT = 9401
SYSTEM = ("-n", "pipemax-system")
OPERATOR = "system:serviceaccount:pipemax-system:pipemax"


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """On an address that pods reach: there is no service proxy here."""
    plane = ControlPlane(tmp_path_factory.mktemp("chart-plane"), own_address())
    plane.start()
    try:
        plane.kubectl("create", "namespace", "jobs")
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def nodes(plane: ControlPlane) -> Iterator[Nodes]:
    """Two nodes with 8 GPUs each."""
    with required_nodes(plane, "a", "b") as found:
        yield found


def eventually(job: RealNodeJob, found: Callable[[], Any], timeout_seconds: float = 240.0) -> Any:
    """The first true answer. AssertionError with all that is known of job and operator."""
    try:
        return wait(job, found, timeout_seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{operator_log(job.plane)}") from error


def test_from_helm_install_to_records(plane: ControlPlane, nodes: Nodes, tmp_path: Path) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(chart_values(plane)), encoding="utf-8")
    job = MinimalExample(plane, "jobs", nodes["a"].folder.parent, NUM_FILES, LINES_PER_FILE)
    job.add_claims()
    job_file = job.write_job(tmp_path / "job.yaml", nodes["a"].nvme)
    shell = Shell(plane, {str(CHART): "charts/pipemax", f"{tmp_path}/": ""})

    install = ("install", "pipemax", str(CHART), "-n", "pipemax-system", "--create-namespace")
    shell.helm(*install, "--values", str(values))
    check_operator_runs(plane, shell)

    with watching(plane, tmp_path / "rows") as rows:
        shell.kubectl("apply", "-n", "jobs", "-f", str(job_file))
        pods = eventually(job, lambda: running_pods(job, 2))
        check_pods(pods, nodes)
        shell.kubectl("get", "pods", "-n", "jobs", "-o", "wide")
        check_top(job, pods, shell)
        scraped = scrape_to_the_end(job, pods)
        eventually(job, lambda: "Complete" in rows()[-1])
        print("$ kubectl get inferencejobs -n jobs -w", *rows(), sep="\n")
        check_rows(rows()[1:])
    check_scraped(scraped)
    check_records(job, nodes)
    shell.kubectl("get", "inferencejobs", "-n", "jobs")
    events = shell.kubectl("events", "-n", "jobs", "--for", f"inferencejob/{job.name}")
    assert "AllRecordsWritten" in events

    job.patch({"ttlSecondsAfterFinished": 1})
    eventually(job, lambda: not plane.get("ij", "-n", "jobs")["items"])
    eventually(job, lambda: not plane.get("jobs,pods", "-n", "jobs")["items"])
    job.check_answers()
    check_uninstall(job, shell, tmp_path)


def check_operator_runs(plane: ControlPlane, shell: Shell) -> None:
    """Up without a restart, and with its own rights alone."""
    rollout = ("rollout", "status", "deployment/pipemax", *SYSTEM, "--timeout=120s")
    said = plane.kubectl(*rollout, check=False)
    assert "successfully rolled out" in said, operator_log(plane)
    shell.helm("test", "pipemax", *SYSTEM)
    shell.kubectl("get", "pods", *SYSTEM)
    pod = operator_pod(plane)
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    assert pod["spec"]["serviceAccountName"] == "pipemax"

    def may(*what: str) -> bool:
        said = plane.kubectl("auth", "can-i", *what, "-n", "jobs", f"--as={OPERATOR}", check=False)
        return said.strip().endswith("yes")

    assert may("create", "jobs")
    assert not may("get", "secrets")
    assert not may("create", "pods")


def operator_pod(plane: ControlPlane) -> Document:
    pods = plane.get("pods", *SYSTEM, "-l", "app.kubernetes.io/name=pipemax")["items"]
    return next(pod for pod in pods if "kopf" in str(pod["spec"]["containers"][0]["command"]))


def check_pods(pods: list[Document], nodes: Nodes) -> None:
    """One pod a node, all eight GPUs each, and nobody is root."""
    assert {pod["spec"]["nodeName"] for pod in pods} == {node.name for node in nodes.values()}
    for pod in pods:
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert pod["spec"]["securityContext"]["runAsUser"] == WORKER_USER
        assert pod["spec"]["automountServiceAccountToken"] is False


def check_top(job: RealNodeJob, pods: list[Document], shell: Shell) -> None:
    """Both workers in one frame, each asked through the API server."""
    names = [pod["metadata"]["name"] for pod in pods]

    def frame() -> str | None:
        printed = shell.top("-n", "jobs")
        is_whole = "1 InferenceJob: 1 Running" in printed and "no answer" not in printed
        return printed if is_whole and all(name in printed for name in names) else None

    printed = eventually(job, frame)
    print(f"$ pipemax top --cluster --once -n jobs\n{printed}")
    for name in names:
        row = next(line for line in printed.splitlines() if line.startswith(name))
        assert "%" in row, printed


def scrape_to_the_end(job: RealNodeJob, pods: list[Document]) -> Scraped:
    """Prometheus' part: each page again and again until the job has ended."""
    scraped, operator = Scraped(), operator_pod(job.plane)["status"]["podIP"]

    def has_ended() -> bool:
        scraped.add(pods, read_page(operator, OPERATOR_METRICS_PORT))
        return job.status().get("phase") in ("Complete", "CompletedWithErrors", "Failed")

    eventually(job, has_ended)
    scraped.add([], read_page(operator, OPERATOR_METRICS_PORT))
    return scraped


def check_scraped(scraped: Scraped) -> None:
    """Throughput, swap and progress were there while the job ran, from real series."""
    assert len(scraped.workers) == 2
    for samples in scraped.workers.values():
        assert samples['pipemax_tokens_total{kind="prompt"}'] > 0, samples
        assert samples['pipemax_kv_swap_bytes_total{source="device",target="host"}'] > 0
        assert samples['pipemax_kv_swap_bytes_total{source="host",target="device"}'] > 0
        assert samples['pipemax_kv_tier_capacity_bytes{tier="nvme"}'] > 0
        assert samples["pipemax_step_duration_seconds_count"] > 0
    assert len(scraped.token_counts) > 2, "a rate needs counters that were seen to grow"
    assert "Running" in scraped.phases
    assert any(0 < ratio < 1 for ratio in scraped.ratios), scraped.ratios
    requests = 'pipemax_job_requests{job="minimal",namespace="jobs",state="completed"}'
    assert scraped.operator[requests] == NUM_REQUESTS
    assert scraped.operator["pipemax_reconcile_total"] > 0


def check_rows(rows: list[str]) -> None:
    """What was seen was true at that time: it grew, and all was done only at the end."""
    seen = [row.split() for row in rows]
    running = [row for row in seen if row[1:2] == ["Running"] and "%" in row[2]]
    shares = [int(row[2].rstrip("%")) for row in running]
    assert shares == sorted(shares), rows
    assert 0 < max(shares, default=0) < 100, rows
    totals = [int(row[3].partition("/")[2].lstrip("~")) for row in running]
    assert all(NUM_REQUESTS / 2 <= total <= NUM_REQUESTS * 2 for total in totals), rows
    assert seen[-1][1:4] == ["Complete", "100%", SUMMARY], rows


def check_records(job: MinimalExample, nodes: Nodes) -> None:
    """Complete, right, not root's, from both nodes."""
    job.check_answers()
    assert (job.output / "manifest.json").stat().st_uid == WORKER_USER
    # The worker that did not write the last record ends a moment later. KV is of no use any more.
    disks = [node.own_nvme() for node in nodes.values()]
    eventually(job, lambda: not [path for disk in disks for path in disk.rglob("*.kv")])
    claims = [path.read_text() for path in (job.output / "ledger" / "claims").iterdir()]
    workers = {json.loads(text)["attempt"]["worker"] for text in claims}
    assert len(workers) == 2, workers


def check_uninstall(job: MinimalExample, shell: Shell, folder: Path) -> None:
    """A job that waits stays, and so does its kind."""
    waiting = job.write_job(folder / "waiting.yaml", Path("/mnt/nvme"), suspend=True)
    shell.kubectl("apply", "-n", "jobs", "-f", str(waiting))
    eventually(job, lambda: job.status().get("phase") == "Suspended")
    shell.helm("uninstall", "pipemax", *SYSTEM, "--wait")
    assert not job.plane.get("deployments", *SYSTEM)["items"]
    rows = shell.kubectl("get", "inferencejobs", "-n", "jobs")
    assert "Suspended" in rows
    job.check_answers()


def operator_log(plane: ControlPlane) -> str:
    """What is known of an operator that does not come up."""
    parts = [
        plane.kubectl("describe", "pods", *SYSTEM, check=False),
        plane.kubectl("logs", "deployment/pipemax", *SYSTEM, check=False),
    ]
    return "\n".join(parts)
