"""What the chart makes of its values: names, roles, the operator's pod, what is behind a switch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kit.chart import CHART, environment, of_kind, one, render, run_helm
from pipemax_operator.crd import build_crd
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

EVERYTHING: Document = {
    "commonLabels": {"team": "inference"},
    "namespaces": ["jobs-a", "jobs-b"],
    "apiServer": {"address": "10.0.0.1", "port": 6443},
    "imagePullSecrets": ["pull"],
    "serviceAccount": {"annotations": {"note": "x"}},
    "operator": {
        "image": {"registry": "registry.internal:5000", "digest": f"sha256:{'a' * 64}"},
        "env": {"LEVEL": "1"},
        "podLabels": {"pod": "label"},
        "podAnnotations": {"pod": "annotation"},
        "nodeSelector": {"role": "control"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "extraVolumes": [{"name": "code", "hostPath": {"path": "/code"}}],
        "extraVolumeMounts": [{"name": "code", "mountPath": "/code", "readOnly": True}],
    },
    "worker": {
        "extraVolumes": [{"name": "code", "hostPath": {"path": "/code"}}],
        "extraVolumeMounts": [{"name": "code", "mountPath": "/code"}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
    },
    "networkPolicy": {"enabled": True},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-extra"}}
    ],
}


@pytest.fixture(scope="module")
def defaults() -> list[Document]:
    return render()


@pytest.fixture(scope="module")
def everything() -> list[Document]:
    return render(EVERYTHING)


def operator_container(documents: list[Document]) -> Document:
    found: Document = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def worker_settings(documents: list[Document]) -> OperatorSettings:
    return OperatorSettings.from_environment(environment(operator_container(documents)))


def test_helm_lints_it() -> None:
    assert "0 chart(s) failed" in run_helm("lint", "--strict", str(CHART))
    assert "0 chart(s) failed" in run_helm("lint", "--strict", str(CHART), values=EVERYTHING)


def test_the_defaults_make_these_objects(defaults: list[Document]) -> None:
    kinds = sorted(document["kind"] for document in defaults)
    assert kinds == [
        *("ClusterRole", "ClusterRole", "ClusterRole", "ClusterRoleBinding"),
        *("CustomResourceDefinition", "Deployment", "Pod"),
        *("Role", "Role", "RoleBinding", "RoleBinding"),
        *("Service", "ServiceAccount"),
    ]


def test_every_object_carries_the_labels(everything: list[Document]) -> None:
    for document in everything:
        if document["metadata"]["name"] == "pipemax-extra":
            continue
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "pipemax"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["team"] == "inference"


def test_the_crd_is_the_operators_and_stays(defaults: list[Document]) -> None:
    crd = one(defaults, "CustomResourceDefinition")
    assert crd["spec"] == build_crd()["spec"]
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_crd_may_be_left_out_or_let_go() -> None:
    assert not of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition")
    crd = one(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "annotations" not in crd["metadata"]


def test_the_operator_runs_once_and_as_nobody(defaults: list[Document]) -> None:
    deployment = one(defaults, "Deployment")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = deployment["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10002
    container = pod["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"] == "pipemax-operator:0.1.0"
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert "--liveness=http://0.0.0.0:8080/healthz" in container["args"]
    assert "--log-format=json" in container["args"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "health": 8080,
        "metrics": 9401,
    }
    assert environment(container)["PIPEMAX_METRICS_PORT"] == "9401"


def test_one_operator_of_several_leads(defaults: list[Document]) -> None:
    container = one(defaults, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert environment(container)["PIPEMAX_LEASE"] == "pipemax-system/pipemax"
    assert environment(container)["PIPEMAX_LEASE_SECONDS"] == "15"
    identity = next(v for v in container["env"] if v["name"] == "PIPEMAX_IDENTITY")
    assert identity["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    values = {"operator": {"replicas": 2}, "namespaces": ["a", "b"], "rbac": {"aggregate": False}}
    deployment = one(render(values), "Deployment")["spec"]
    assert deployment["replicas"] == 2
    container = deployment["template"]["spec"]["containers"][0]
    assert environment(container)["PIPEMAX_NAMESPACES"] == "a,b"


def test_service_and_deployment_select_the_operators_pod_alone(defaults: list[Document]) -> None:
    deployment = one(defaults, "Deployment")["spec"]
    selector = one(defaults, "Service")["spec"]["selector"]
    assert deployment["selector"]["matchLabels"] == selector
    labels = deployment["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    test_pod = one(defaults, "Pod")["metadata"]
    assert not selector.items() <= test_pod["labels"].items()
    assert test_pod["annotations"]["helm.sh/hook"] == "test"


def test_the_workers_defaults_are_the_operators_own(defaults: list[Document]) -> None:
    assert worker_settings(defaults) == OperatorSettings(system_namespace="pipemax-system")


def test_every_setting_of_the_operator_is_a_value(defaults: list[Document]) -> None:
    given = json.loads(environment(operator_container(defaults))["PIPEMAX_WORKER_SETTINGS"])
    assert given.keys() == OperatorSettings.__dataclass_fields__.keys()


def test_values_reach_the_workers() -> None:
    values: Document = {
        "imagePullSecrets": ["pull"],
        "worker": {
            "image": {"repository": "team/worker", "tag": "7"},
            "imagePullPolicy": "Never",
            "command": ["/venv/bin/python", "-m", "pipemax_worker.cli.main"],
            "env": {"HF_HUB_OFFLINE": "1"},
            "extraVolumes": [{"name": "venv", "hostPath": {"path": "/venv"}}],
            "extraVolumeMounts": [{"name": "venv", "mountPath": "/venv", "readOnly": True}],
            "runAsUser": 2000,
            "metricsPort": 9500,
            "sharedMemory": "64Mi",
            "memoryOverhead": "2Ti",
            "nvmeWriteBytesPerSecond": 2_500_000_000,
            "gpuAffinity": False,
            "gpusForCpuJobs": 8,
            "maxRetries": 2,
            "pollSeconds": 0.5,
        },
        "nvmeSweeps": {"queueName": "chores"},
        "jobs": {"allowedHostPaths": ["/data/{namespace}"], "allowedImages": []},
    }
    settings = worker_settings(render(values))
    assert settings == OperatorSettings(
        image="team/worker:7",
        image_pull_policy="Never",
        image_pull_secrets=("pull",),
        command=("/venv/bin/python", "-m", "pipemax_worker.cli.main"),
        environment={"HF_HUB_OFFLINE": "1"},
        extra_volumes=({"name": "venv", "hostPath": {"path": "/venv"}},),
        extra_volume_mounts=({"name": "venv", "mountPath": "/venv", "readOnly": True},),
        run_as_user=2000,
        metrics_port=9500,
        shared_memory_bytes=64 * 2**20,
        memory_overhead_bytes=2 * 2**40,
        nvme_write_bytes_per_second=2.5e9,
        gpu_affinity=False,
        gpus_for_cpu_jobs=8,
        max_retries=2,
        poll_seconds=0.5,
        system_namespace="pipemax-system",
        sweep_queue_name="chores",
        allowed_host_paths=("/data/{namespace}",),
        allowed_images=(),
    )


def test_sweeps_may_be_left_out() -> None:
    settings = worker_settings(render({"nvmeSweeps": {"enabled": False}}))
    assert settings.system_namespace == ""
    notes = run_helm(
        *("install", "pipemax", str(CHART), "--dry-run=client", "--hide-notes=false"),
        values={"nvmeSweeps": {"enabled": False}},
    )
    assert "swept from" not in notes


def test_values_reach_the_operators_pod(everything: list[Document]) -> None:
    pod = one(everything, "Deployment")["spec"]["template"]
    assert pod["metadata"]["labels"]["pod"] == "label"
    assert pod["metadata"]["annotations"] == {"pod": "annotation"}
    spec = pod["spec"]
    assert spec["nodeSelector"] == {"role": "control"}
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-cluster-critical"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp", "code"]
    container = spec["containers"][0]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp", "/code"]
    assert container["image"] == f"registry.internal:5000/pipemax-operator@sha256:{'a' * 64}"
    assert environment(container)["LEVEL"] == "1"


def test_the_api_servers_address_reaches_operator_and_test(everything: list[Document]) -> None:
    test_pod = one(everything, "Pod")["spec"]["containers"][0]
    for container in (operator_container(everything), test_pod):
        found = environment(container)
        assert found["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"
        assert found["KUBERNETES_SERVICE_PORT"] == "6443"


def test_without_an_address_the_clusters_service_is_used(defaults: list[Document]) -> None:
    assert "KUBERNETES_SERVICE_HOST" not in environment(operator_container(defaults))


def test_monitoring_is_behind_its_switches(everything: list[Document]) -> None:
    operator_labels = one(everything, "Service")["metadata"]["labels"]
    monitor = one(everything, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= operator_labels.items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    workers = one(everything, "PodMonitor")["spec"]
    assert workers["namespaceSelector"] == {"matchNames": ["jobs-a", "jobs-b"]}
    rules = one(everything, "PrometheusRule")["spec"]["groups"]
    assert all(
        rule.get("alert", rule.get("record")) and rule["expr"]
        for group in rules
        for rule in group["rules"]
    )
    dashboards = one(everything, "ConfigMap")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {json.loads(text)["uid"] for text in dashboards["data"].values()} == {
        json.loads(path.read_text(encoding="utf-8"))["uid"]
        for path in (CHART / "dashboards").glob("*.json")
    }


def test_the_network_policy_lets_out_to_the_api_server_and_the_workers(
    everything: list[Document],
) -> None:
    _dns, api_server, workers = one(everything, "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for port in api_server["ports"]} == {443, 6443}
    assert workers["ports"] == [{"port": 9400, "protocol": "TCP"}]


def test_extra_objects_may_be_templates(everything: list[Document]) -> None:
    assert one(everything, "Secret")["metadata"]["name"] == "pipemax-extra"


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("pipemax", {}, "pipemax"),
        ("my", {}, "my-pipemax"),
        ("my", {"nameOverride": "x"}, "my-x"),
        ("my", {"fullnameOverride": "x"}, "x"),
        ("r" * 53, {}, "r" * 50),
    ],
)
def test_names(release: str, values: Document, name: str) -> None:
    text = run_helm(
        *("template", release, str(CHART), "--show-only", "templates/serviceaccount.yaml"),
        values=values,
    )
    assert f"\n  name: {name}\n" in text


def test_notes_say_what_to_do_next() -> None:
    text = run_helm("install", "pipemax", str(CHART), "--dry-run=client", "--hide-notes=false")
    for words in ("rollout status deployment/pipemax", "helm -n default test", "kubectl apply -f"):
        assert words in text


@pytest.mark.parametrize(("allowed", "warns"), [(["/"], True), (["/data"], False), ([], False)])
def test_the_notes_say_that_all_folders_are_open(allowed: list[str], warns: bool) -> None:
    notes = run_helm(
        *("install", "pipemax", str(CHART), "--dry-run=client", "--hide-notes=false"),
        values={"jobs": {"allowedHostPaths": allowed}},
    )
    assert ("may name any folder of the nodes" in notes) is warns
