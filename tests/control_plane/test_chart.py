"""The chart on a real API server: Helm installs it, and its own account runs the operator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.chart import CHART, ROOT, environment
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.files import write_kubeconfig
from kit.control_plane.operator_process import OperatorProcess
from kit.control_plane.stand_in_node import StandInNode
from kit.control_plane.waiting import eventually
from kit.ports import free_port
from kit.previous_version import load_crd, load_job, load_stored_job
from pipemax_worker.job import InferenceJob

Document = dict[str, Any]

SYSTEM = "pipemax-system"
CRD = "crd/inferencejobs.pipemax.dev"
JOB: Document = {
    "apiVersion": "pipemax.dev/v1alpha1",
    "kind": "InferenceJob",
    "metadata": {"name": "reviews"},
    "spec": {
        "model": {"uri": "hostPath:///models/tiny"},
        "input": {"uri": "hostPath:///data/prompts.jsonl"},
        "output": {"uri": "hostPath:///results/reviews"},
        "kvCache": {"host": "1Gi"},
    },
}
QUICK = ("--set", "worker.pollSeconds=0.5", "--set", "worker.memoryOverhead=1Gi")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Without the CRD, and with nobody else's jobs: the chart's operator sees all namespaces."""
    plane = ControlPlane(tmp_path_factory.mktemp("chart-plane"))
    plane.start()
    try:
        plane.kubectl("create", "namespace", SYSTEM)
        for name in ("jobs-a", "jobs-b"):
            plane.kubectl("create", "namespace", name)
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def node(plane: ControlPlane) -> Iterator[StandInNode]:
    node = StandInNode(plane, "stand-in")
    node.join()
    yield node
    node.leave()


@contextmanager
def installed(plane: ControlPlane, *flags: str, chart: Path = CHART) -> Iterator[str]:
    """What Helm said; uninstalled at the end, and the jobs with it."""
    said = plane.helm("install", "pipemax", str(chart), "--namespace", SYSTEM, *QUICK, *flags)
    try:
        yield said
    finally:
        plane.helm("uninstall", "pipemax", "--namespace", SYSTEM, "--ignore-not-found")
        for name in ("jobs-a", "jobs-b"):
            plane.kubectl("delete", "inferencejobs,jobs,pods", "--all", "--force", "-n", name)


@contextmanager
def operator_of_the_chart(
    plane: ControlPlane, folder: Path, metrics_port: int = 0
) -> Iterator[OperatorProcess]:
    """The operator with the arguments and variables of its Deployment, and the token of its
    service account: what it may not do there, it may not do here."""
    deployment = plane.get("deployment", "pipemax", "-n", SYSTEM)["spec"]["template"]["spec"]
    container = deployment["containers"][0]
    account = deployment["serviceAccountName"]
    token = plane.kubectl("create", "token", account, "-n", SYSTEM).strip()
    kubeconfig = folder / "operator.kubeconfig"
    write_kubeconfig(kubeconfig, plane.server, token, plane.certificate)
    scopes = [a.partition("=")[2] for a in container["args"] if a.startswith("--namespace=")]
    variables = environment(container) | {"PIPEMAX_METRICS_PORT": str(metrics_port)}
    operator = OperatorProcess(plane, folder, *scopes, environment=variables, kubeconfig=kubeconfig)
    operator.start()
    try:
        yield operator
    finally:
        operator.stop()


def apply_as_is(plane: ControlPlane, namespace: str, document: Document) -> str:
    """kubectl's words, whether the API server takes it or not."""
    text = yaml.safe_dump(document)
    return plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=text, check=False)


def apply(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(JOB))


def phase(plane: ControlPlane, namespace: str) -> str:
    found = plane.get("inferencejob", "reviews", "-n", namespace)
    return str(found.get("status", {}).get("phase"))


def run_to_the_end(plane: ControlPlane, namespace: str, node: StandInNode) -> None:
    def scheduled() -> str | None:
        pods = plane.get("pods", "-n", namespace)["items"]
        names = [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")]
        return names[0] if names else None

    pod = str(eventually(scheduled))
    node.run_pod(namespace, pod)
    eventually(lambda: phase(plane, namespace) == "Running")
    node.end_pod(namespace, pod, 0, '{"reason": "Complete", "counts": {"completed": 6}}')
    eventually(lambda: phase(plane, namespace) == "Complete")


def test_helm_installs_it_and_says_what_to_do_next(plane: ControlPlane) -> None:
    with installed(plane) as said:
        assert "STATUS: deployed" in said
        assert "kubectl get inferencejobs -w" in said
        plane.wait_for_kinds(CRD)
        names = {d["metadata"]["name"] for d in plane.get("clusterroles")["items"]}
        assert {f"{SYSTEM}-pipemax{end}" for end in ("", "-view", "-edit")} <= names
        pod = eventually(lambda: plane.get("pods", "-n", SYSTEM)["items"])[0]["spec"]
        assert pod["serviceAccountName"] == "pipemax"
        assert any("serviceAccountToken" in str(volume) for volume in pod["volumes"])


def test_the_charts_own_account_takes_a_job_to_its_end(
    plane: ControlPlane, node: StandInNode, tmp_path: Path
) -> None:
    port = free_port()

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
            return str(page.read().decode())

    with installed(plane), operator_of_the_chart(plane, tmp_path, port) as operator:
        apply(plane, "jobs-a")
        run_to_the_end(plane, "jobs-a", node)
        # A status is there for all to see before its operator has counted it.
        eventually(lambda: 'pipemax_jobs{namespace="jobs-a",phase="Complete"} 1.0' in metrics())
        patch = '{"spec": {"ttlSecondsAfterFinished": 1}}'
        plane.kubectl("patch", "ij", "reviews", "-n", "jobs-a", "--type=merge", "-p", patch)
        eventually(lambda: not plane.get("ij", "-n", "jobs-a")["items"])
        said = operator.log.read_text(encoding="utf-8")
    assert "forbidden" not in said.lower()
    assert "Not enough permissions" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("resource", "verb"), [("configmaps", "create"), ("pods", "list")])
def test_a_right_that_lacks_is_named_in_the_log_until_it_is_given(
    plane: ControlPlane, node: StandInNode, tmp_path: Path, resource: str, verb: str
) -> None:
    with installed(plane):
        role = plane.get("clusterrole", f"{SYSTEM}-pipemax")
        lacking = [rule for rule in role["rules"] if rule["resources"] != [resource]]
        plane.kubectl("replace", "-f", "-", stdin=yaml.safe_dump({**role, "rules": lacking}))
        with operator_of_the_chart(plane, tmp_path) as operator:
            apply(plane, "jobs-a")

            account = f'User "system:serviceaccount:{SYSTEM}:pipemax"'
            said = f'{account} cannot {verb} resource "{resource}"'
            begun = "jobs-a/reviews: tried again" if verb == "create" else "a right lacks"

            def line() -> bool:
                lines = operator.log.read_text(encoding="utf-8").splitlines()
                return any(begun in one and said in one for one in lines)

            eventually(line)
            if verb == "create":  # the job itself is known: it is told why it stands still
                status = plane.get("ij", "reviews", "-n", "jobs-a")["status"]
                refused = next(c for c in status["conditions"] if c["type"] == "Progressing")
                assert (refused["status"], refused["reason"]) == ("False", "Forbidden")
                assert said in refused["message"]
                told = plane.kubectl("events", "-n", "jobs-a", "--for", "inferencejob/reviews")
                assert "Forbidden" in told
            plane.helm("upgrade", "pipemax", str(CHART), "-n", SYSTEM, *QUICK, "--force-conflicts")
            run_to_the_end(plane, "jobs-a", node)
            assert operator.is_alive()


def test_an_operator_of_one_namespace_leaves_the_others_alone(
    plane: ControlPlane, node: StandInNode, tmp_path: Path
) -> None:
    flags = ("--set", "namespaces={jobs-a}", "--set", "rbac.aggregate=false")
    with installed(plane, *flags):
        roles = plane.get("clusterroles")["items"]
        assert not [d for d in roles if "pipemax" in d["metadata"]["name"]]
        with operator_of_the_chart(plane, tmp_path) as operator:
            for namespace in ("jobs-b", "jobs-a"):
                apply(plane, namespace)
            run_to_the_end(plane, "jobs-a", node)
            assert phase(plane, "jobs-b") == "None"
            assert not plane.get("jobs", "-n", "jobs-b")["items"]
            said = operator.log.read_text(encoding="utf-8")
        assert "Not enough permissions" not in said
        assert "forbidden" not in said.lower()


def chart_of_the_previous_version(folder: Path) -> Path:
    """As far as its CRD goes."""
    chart = folder / "pipemax"
    shutil.copytree(CHART, chart)
    crd = yaml.safe_dump(load_crd(), sort_keys=False)
    (chart / "files" / "crd.yaml").write_text(crd, encoding="utf-8")
    return chart


def schema_names_layers(plane: ControlPlane) -> bool:
    """Which the previous version's did not."""
    return "layersPerStage" in plane.kubectl("get", CRD, "-o", "json")


def test_an_upgrade_changes_operator_and_crd_and_keeps_the_jobs(
    plane: ControlPlane, tmp_path: Path
) -> None:
    previous = chart_of_the_previous_version(tmp_path)
    with installed(plane, chart=previous):
        plane.wait_for_kinds(CRD)
        assert not schema_names_layers(plane)
        eventually(lambda: "created" in apply_as_is(plane, "jobs-a", load_job()))
        before = plane.get("inferencejob", "reviews", "-n", "jobs-a")
        assert before["spec"] == load_stored_job()["spec"]
        flags = ("--set", "worker.pollSeconds=3", "--set", "worker.memoryOverhead=1Gi")
        said = plane.helm("upgrade", "pipemax", str(CHART), "--namespace", SYSTEM, *flags)
        assert "REVISION: 2" in said
        pod = plane.get("deployment", "pipemax", "-n", SYSTEM)["spec"]["template"]["spec"]
        variables = environment(pod["containers"][0])
        assert '"poll_seconds":3' in variables["PIPEMAX_WORKER_SETTINGS"]
        assert schema_names_layers(plane), "Helm upgrades the CRD, too"
        after = plane.get("inferencejob", "reviews", "-n", "jobs-a")
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["spec"] == before["spec"]
        expected = InferenceJob.model_validate(load_stored_job()).spec
        assert InferenceJob.model_validate(after).spec == expected
        # It can be changed, and its author's own file still says the same.
        assert "unchanged" in apply_as_is(plane, "jobs-a", load_job())
        changes = {"spec": {"suspend": True}, "metadata": {"labels": {"a": "b"}}}
        plane.kubectl(
            *("patch", "ij", "reviews", "-n", "jobs-a", "--type=merge", "-p", json.dumps(changes))
        )


def test_uninstall_leaves_the_crd_and_the_jobs(plane: ControlPlane) -> None:
    with installed(plane):
        apply(plane, "jobs-a")
        said = plane.helm("uninstall", "pipemax", "--namespace", SYSTEM)
        assert "inferencejobs.pipemax.dev" in said  # kept due to the resource policy
        assert "reviews" in plane.kubectl("get", "inferencejobs", "-n", "jobs-a")
        assert not plane.get("deployments", "-n", SYSTEM)["items"]
        assert "NotFound" in plane.kubectl("get", "clusterrole", f"{SYSTEM}-pipemax", check=False)


@pytest.mark.parametrize("flags", [(), ("--set", "namespaces={jobs-a}")])
def test_the_test_of_the_release_asks_the_api_server(
    plane: ControlPlane, flags: tuple[str, ...], tmp_path: Path
) -> None:
    with installed(plane, *flags):
        hook = plane.helm("get", "hooks", "pipemax", "--namespace", SYSTEM)
        container = yaml.safe_load(hook)["spec"]["containers"][0]
        arguments = (sys.executable, *container["args"])
        token = plane.kubectl("create", "token", "pipemax", "-n", SYSTEM)
        (tmp_path / "token").write_text(token, encoding="utf-8")
        (tmp_path / "ca.crt").write_bytes(plane.certificate.read_bytes())
        host, port = plane.server.removeprefix("https://").split(":")
        variables = {
            **os.environ,
            **environment(container),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "PIPEMAX_SERVICE_ACCOUNT_FOLDER": str(tmp_path),
        }

        def ask() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                arguments, env=variables, capture_output=True, text=True, check=False
            )

        done = eventually(lambda: found if (found := ask()).returncode == 0 else None)
        assert "inferencejobs: 0 InferenceJobs" in done.stdout
        variables["PIPEMAX_NAMESPACES"] = "kube-system"
        if flags:
            refused = ask()
            assert refused.returncode == 1
            assert "403" in refused.stderr
            assert "cannot list resource" in refused.stderr


def test_editors_and_viewers_of_a_namespace_may_use_jobs(plane: ControlPlane) -> None:
    with installed(plane):
        for role in ("view", "edit"):
            plane.kubectl(
                *("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er"),
                *("-n", "jobs-a"),
            )

        def may(user: str, verb: str) -> bool:
            question = ("auth", "can-i", verb, "inferencejobs", f"--as={user}", "-n", "jobs-a")
            return plane.kubectl(*question, check=False).strip().endswith("yes")

        eventually(lambda: may("editer", "create") and may("viewer", "get"))
        assert not may("viewer", "create")
        assert not may("stranger", "get")
        for role in ("view", "edit"):
            plane.kubectl("delete", "rolebinding", role, "-n", "jobs-a")


@pytest.mark.parametrize("name", ["minimal", "llama-70b", "s3", "kueue"])
def test_the_api_server_takes_the_examples(plane: ControlPlane, name: str) -> None:
    path = ROOT / "manifests" / "examples" / name / "job.yaml"
    with installed(plane):
        plane.wait_for_kinds(CRD)
        said = plane.kubectl("apply", "--dry-run=server", "-n", "jobs-a", "-f", str(path))
        assert said == f"inferencejob.pipemax.dev/{name} created (server dry run)\n"


def test_the_api_server_takes_install_yaml(plane: ControlPlane) -> None:
    path = str(ROOT / "manifests" / "install.yaml")
    said = plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", path
    )
    lines = said.splitlines()
    assert "deployment.apps/pipemax serverside-applied (server dry run)" in lines
    assert len(lines) == 13
