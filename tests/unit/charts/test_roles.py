"""What the operator may do: what its code calls, and nothing more."""

from __future__ import annotations

from typing import Any

import pytest
from kit.chart import of_kind, one, render

Document = dict[str, Any]

ALLOWED = {
    ("pipemax.dev", "inferencejobs"): {"get", "list", "watch", "delete"},
    ("pipemax.dev", "inferencejobs/status"): {"patch"},
    ("pipemax.dev", "inferencejobs/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "pods"): {"list", "watch", "patch", "delete"},
    ("", "pods/status"): {"patch"},
    ("", "configmaps"): {"get", "create", "patch"},
    ("kueue.x-k8s.io", "workloads"): {"list", "patch"},
    ("", "events"): {"list", "create"},
}
SWEEPS = {
    ("", "configmaps"): {"list", "create", "patch", "delete"},
    ("batch", "jobs"): {"list", "create", "patch", "delete"},
    ("", "pods"): {"list"},
}


def rights(role: Document) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def named(documents: list[Document], kind: str, name: str) -> Document:
    return next(d for d in of_kind(documents, kind) if d["metadata"]["name"] == name)


def namespace_of(document: Document) -> str:
    return str(document["metadata"]["namespace"])


def test_cluster_wide() -> None:
    documents = render()
    role = named(documents, "ClusterRole", "pipemax-system-pipemax")
    crds = ("apiextensions.k8s.io", "customresourcedefinitions")
    assert rights(role) == ALLOWED | {crds: {"list", "watch"}, ("", "nodes"): {"list"}}
    binding = one(documents, "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == "pipemax-system-pipemax"
    account = one(documents, "ServiceAccount")["metadata"]
    assert binding["subjects"] == [
        {
            "kind": "ServiceAccount",
            "name": account["name"],
            "namespace": account["namespace"],
        }
    ]
    assert {*map(namespace_of, of_kind(documents, "Role"))} == {"pipemax-system"}


def test_namespaced() -> None:
    documents = render({"namespaces": ["a", "b"], "rbac": {"aggregate": False}})
    assert not of_kind(documents, "ClusterRole") + of_kind(documents, "ClusterRoleBinding")
    roles = [role for role in of_kind(documents, "Role") if namespace_of(role) != "pipemax-system"]
    assert [*map(namespace_of, roles)] == ["a", "b"]
    assert all(rights(role) == ALLOWED for role in roles)
    for binding in of_kind(documents, "RoleBinding"):
        assert binding["subjects"][0]["namespace"] == "pipemax-system"
    arguments = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--namespace=a" in arguments
    assert "--namespace=b" in arguments
    assert "--all-namespaces" not in arguments


@pytest.mark.parametrize("values", [{}, {"namespaces": ["a"]}])
def test_sweeps_of_nodes_disks_need_these_rights_in_the_releases_own_namespace(
    values: Document,
) -> None:
    documents = render(values)
    name = "pipemax-nvme-sweeps"
    role = named(documents, "Role", name)
    assert rights(role) == SWEEPS
    assert namespace_of(role) == "pipemax-system"
    binding = named(documents, "RoleBinding", name)
    assert (binding["roleRef"]["name"], namespace_of(binding)) == (name, "pipemax-system")
    without = render({**values, "nvmeSweeps": {"enabled": False}})
    assert name not in {document["metadata"]["name"] for document in without}


@pytest.mark.parametrize("values", [{}, {"namespaces": ["a"]}])
def test_the_lease_is_the_releases_own(values: Document) -> None:
    role = named(render(values), "Role", "pipemax-leader-election")
    assert namespace_of(role) == "pipemax-system"
    create, use = role["rules"]
    assert create["resources"] == use["resources"] == ["leases"]
    assert (create["verbs"], "resourceNames" in create) == (["create"], False)
    assert (use["verbs"], use["resourceNames"]) == (["get", "update"], ["pipemax"])


def test_no_role_at_all_where_they_are_made_elsewhere() -> None:
    documents = render({"rbac": {"create": False, "aggregate": False}})
    assert not [d for d in documents if "Role" in d["kind"]]


def test_nothing_reads_secrets() -> None:
    for values in ({}, {"namespaces": ["a"]}):
        documents = render(values)
        for role in of_kind(documents, "Role") + of_kind(documents, "ClusterRole"):
            assert not {"secrets", "*"} & {resource for _, resource in rights(role)}
            assert all("*" not in given for given in rights(role).values())


def test_viewers_and_editors_get_inference_jobs() -> None:
    documents = render()
    view = named(documents, "ClusterRole", "pipemax-system-pipemax-view")
    edit = named(documents, "ClusterRole", "pipemax-system-pipemax-edit")
    prefix = "rbac.authorization.k8s.io/aggregate-to"
    assert view["metadata"]["labels"][f"{prefix}-view"] == "true"
    assert edit["metadata"]["labels"][f"{prefix}-edit"] == "true"
    assert rights(view)["pipemax.dev", "inferencejobs"] == {"get", "list", "watch"}
    assert ("pipemax.dev", "inferencejobs/status") not in rights(edit)


def test_another_account_is_bound_where_it_is_named() -> None:
    documents = render({"serviceAccount": {"create": False, "name": "own"}})
    assert not of_kind(documents, "ServiceAccount")
    assert one(documents, "ClusterRoleBinding")["subjects"][0]["name"] == "own"
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "own"
