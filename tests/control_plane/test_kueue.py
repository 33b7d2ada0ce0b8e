"""Kueue's own manager holds, admits, evicts and re-admits jobs; nobody fights over ``suspend``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.chart import ROOT, of_kind, render
from kit.control_plane import waiting
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.files import write_kubeconfig
from kit.control_plane.kueue import running_kueue
from kit.control_plane.operator_process import OperatorProcess
from kit.control_plane.real_node import RealNode
from kit.control_plane.real_node_job import RealNodeJob, read_metrics, worker_settings
from kit.control_plane.required_nodes import required_nodes

pytestmark = pytest.mark.xdist_group("real-nodes")

Document = dict[str, Any]

EXAMPLE = ROOT / "manifests" / "examples" / "kueue"
POOL_LABEL = {"pipemax.dev/pool": "batch"}
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
URGENT: Document = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "kind": "WorkloadPriorityClass",
    "metadata": {"name": "urgent"},
    "value": 1000,
}
BATCH, OTHERS = "batch-jobs", "others"
SLOW = {"device": "cpu", "maxNumRequests": 2, "lookAhead": 4}
NUM_FILES, LINES_PER_FILE = 4, 7


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Of its own: Kueue's webhooks would stay in the other tests' way. The operator has the
    chart's rights and no others."""
    folder = tmp_path_factory.mktemp("kueue")
    plane = ControlPlane(folder / "plane")
    plane.start()
    operator = None
    try:
        for name in (BATCH, OTHERS, "pipemax-system"):
            plane.kubectl("create", "namespace", name)
        kubeconfig = give_rights(plane, folder / "operator.kubeconfig")
        with running_kueue(plane, folder / "manager"):
            operator = OperatorProcess(plane, folder, None, worker_settings(), kubeconfig)
            operator.start()
            yield plane
    finally:
        if operator is not None:
            operator.stop()
        plane.stop()


def give_rights(plane: ControlPlane, kubeconfig: Path) -> Path:
    """A kubeconfig of the chart's service account."""
    kinds = ("CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")
    kinds += ("Role", "RoleBinding")
    documents = [one for kind in kinds for one in of_kind(render(), kind)]
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(documents))
    plane.wait_for_kinds("crd/inferencejobs.pipemax.dev")
    account = ("pipemax", "-n", "pipemax-system")
    token = plane.kubectl("create", "token", *account, "--duration=1h").strip()
    return write_kubeconfig(kubeconfig, plane.server, token, plane.certificate)


@pytest.fixture(scope="module")
def queues(plane: ControlPlane) -> None:
    """The example's own, for both namespaces."""
    for namespace in (BATCH, OTHERS):
        plane.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE / "queues.yaml"))
    plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(URGENT))


@pytest.fixture
def node(plane: ControlPlane) -> Iterator[RealNode]:
    """One with eight GPUs, in the flavor's pool."""
    with required_nodes(plane, "a") as found:
        labels = [f"{key}={value}" for key, value in POOL_LABEL.items()]
        plane.kubectl("label", "node", found["a"].name, *labels)
        yield found["a"]


class Queued:
    """One InferenceJob that Kueue holds or has released, as each of the parties sees it."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str = "kueue") -> None:
        self.plane, self._where = plane, (name, "-n", namespace)
        self._namespace = ("-n", namespace)

    def status(self) -> Document:
        found: Document = self.plane.get("ij", *self._where).get("status", {})
        return found

    def child(self) -> Document:
        found: Document = self.plane.get("job", *self._where)
        return found

    def workload(self) -> Document:
        found: list[Document] = self.plane.get("workloads", *self._namespace)["items"]
        uid = self.child()["metadata"]["uid"]
        return next(w for w in found if w["metadata"]["labels"]["kueue.x-k8s.io/job-uid"] == uid)

    def patch(self, kind: str, name: str, spec: Document) -> None:
        body = json.dumps({"spec": spec})
        self.plane.kubectl("patch", kind, name, *self._namespace, "--type=merge", "-p", body)

    def suspend(self, is_suspended: bool) -> None:
        self.patch("ij", self._where[0], {"suspend": is_suspended})

    def activate(self, is_active: bool) -> None:
        """As ``kubectl kueue stop workload`` and ``resume workload`` do."""
        self.patch("workload", self.workload()["metadata"]["name"], {"active": is_active})

    def is_released(self) -> bool:
        return not self.child()["spec"]["suspend"]

    def is_finished_for_kueue(self) -> bool:
        """Its quota is others' now."""
        found = self.workload()["status"]["conditions"]
        return any((c["type"], c["status"]) == ("Finished", "True") for c in found)

    def words(self, reason: str, text: str) -> Callable[[], str]:
        """The message of ``Suspended``, once it is True for that reason and says that."""

        def check() -> str:
            status = self.status()
            for one in status.get("conditions", ()):
                if (one["type"], one["status"], one["reason"]) == ("Suspended", "True", reason):
                    return one["message"] if text in one["message"] else ""
            return ""

        return check

    def events(self) -> str:
        about = ("--for", f"inferencejob/{self._where[0]}")
        return self.plane.kubectl("events", *self._namespace, *about)

    def stays(self, seconds: float = 2.0) -> None:
        """Nobody writes the child Job's spec any more: not we, not Kueue, not in turns. Kueue stops
        a Job in two writes: suspended first, then without the flavor's node labels."""

        def is_left_alone() -> bool:
            before = self.child()["metadata"]["generation"]
            time.sleep(seconds)
            return bool(self.child()["metadata"]["generation"] == before)

        eventually(self, is_left_alone, 30)

    def describe(self) -> str:
        parts = [self.plane.kubectl("get", "ij,jobs,pods,workloads", *self._namespace)]
        found = [self.status(), *self.plane.get("workloads", *self._namespace)["items"]]
        parts += [json.dumps(one.get("status", one), indent=1) for one in found]
        return "\n".join([*parts, self.plane.kubectl("get", "events", *self._namespace)])


def eventually(job: Queued, found: Callable[[], Any], timeout_seconds: float = 120.0) -> Any:
    """The first true answer. AssertionError with what all parties know if there is none."""
    return waiting.eventually(found, timeout_seconds, job.describe)


def reserved_gpus(plane: ControlPlane) -> str:
    """Of the ClusterQueue's quota."""
    (flavor,) = plane.get("clusterqueue", "inference")["status"]["flavorsReservation"]
    return next(r["total"] for r in flavor["resources"] if r["name"] == "nvidia.com/gpu")


def test_the_example_is_held_and_released(plane: ControlPlane) -> None:
    """As it stands in manifests/, from no queue at all to each way of being stopped."""
    everything = [*yaml.safe_load_all((EXAMPLE / "queues.yaml").read_text(encoding="utf-8"))]
    (priority,) = of_kind(everything, "PriorityClass")
    plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(priority))
    plane.kubectl("apply", "-n", BATCH, "-f", str(EXAMPLE / "job.yaml"))
    job = Queued(plane, BATCH)
    eventually(job, job.words("Queued", "LocalQueue batch doesn't exist"))
    assert job.child()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "batch"
    job.stays()

    plane.kubectl("apply", "-n", BATCH, "-f", str(EXAMPLE / "queues.yaml"))
    eventually(job, job.is_released)
    eventually(job, lambda: job.status()["phase"] == "Pending")
    assert job.child()["spec"]["template"]["spec"]["nodeSelector"] == POOL_LABEL
    eventually(job, lambda: reserved_gpus(plane) == "8")

    job.suspend(True)  # the user's word
    eventually(job, job.words("SuspendedByUser", "spec.suspend is true"))
    eventually(job, lambda: reserved_gpus(plane) == "0")
    assert job.workload()["spec"]["active"] is False
    job.stays()
    job.suspend(False)
    eventually(job, job.is_released)

    job.activate(False)  # an administrator's
    eventually(job, job.words("Evicted", "Deactivated"))
    job.stays()
    assert job.workload()["spec"]["active"] is False, "only who has stopped it starts it again"
    job.activate(True)
    eventually(job, job.is_released)

    job.patch("clusterqueue", "inference", {"stopPolicy": "HoldAndDrain"})
    said = eventually(job, job.words("Evicted", "ClusterQueueStopped"))
    assert "stopped" in said
    job.patch("clusterqueue", "inference", {"stopPolicy": "None"})
    eventually(job, job.is_released)
    eventually(job, lambda: job.status()["phase"] == "Pending")
    assert "Queued" in job.events()
    assert "Evicted" in job.events()
    plane.kubectl("delete", "ij", "kueue", "-n", BATCH)
    eventually(job, lambda: not plane.get("workloads", "-n", BATCH)["items"])


@pytest.mark.usefixtures("queues")
def test_evicted_by_a_more_urgent_job_and_back_with_its_kv(
    plane: ControlPlane, node: RealNode
) -> None:
    files = RealNodeJob(plane, BATCH, node.folder.parent, NUM_FILES, LINES_PER_FILE)
    other_files = RealNodeJob(plane, OTHERS, node.folder.parent, 1, 6)
    job, urgent = Queued(plane, BATCH), Queued(plane, OTHERS, "urgent")
    files.name = "kueue"
    files.apply(like_the_example(files, node))
    eventually(job, lambda: 2 <= files.num_records() < len(files.lines))
    files.note("admitted, and has records")
    (pod,) = files.pods()
    assert pod["spec"]["nodeSelector"] == POOL_LABEL
    assert pod["spec"]["priorityClassName"] == "inference-batch"

    with files.watching_exit_codes() as exit_codes:
        document = like_the_example(other_files, node)
        document["metadata"] = {"name": "urgent", "labels": {PRIORITY_LABEL: "urgent"}}
        other_files.apply(document)
        said = eventually(job, job.words("Evicted", "Preempted"))
        files.note(f"evicted: {said}")
        eventually(job, lambda: 75 in exit_codes())
    assert list(node.own_nvme().rglob("park.json"))
    assert files.num_records() < len(files.lines)
    assert urgent.workload()["spec"]["priority"] == URGENT["value"]
    job.stays()
    assert job.status()["phase"] == "Suspended"
    assert urgent.status()["phase"] not in ("Complete", "Failed")

    eventually(urgent, lambda: urgent.status()["phase"] == "Complete", 120)
    files.note("the urgent job is complete")
    eventually(job, job.is_released)
    pod = eventually(job, lambda: [one for one in files.pods() if one["status"].get("podIP")])[0]
    metrics: dict[str, float] = {}

    def is_over() -> bool:
        metrics.update(read_metrics(pod))
        return job.status()["phase"] in ("Complete", "Failed")

    eventually(job, is_over, 200)
    files.note("Complete")
    assert job.status()["phase"] == "Complete", job.describe()
    assert metrics['pipemax_tokens_total{kind="restored"}'] > 0
    files.check_answers()
    other_files.check_answers()
    eventually(job, job.is_finished_for_kueue)


def like_the_example(files: RealNodeJob, node: RealNode) -> Document:
    """Its queue and priority, with places on this machine."""
    example: Document = yaml.safe_load((EXAMPLE / "job.yaml").read_text(encoding="utf-8"))
    scheduling = example["spec"]["scheduling"]
    document = files.document(node.nvme, stages=2, engine=SLOW, scheduling=scheduling)
    return document | {"metadata": example["metadata"]}
