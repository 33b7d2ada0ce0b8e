"""The operator's own life: killed, doubled, cut off from the API server, its watches silent."""

from __future__ import annotations

import contextlib
import json
import random
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.files import write_kubeconfig
from kit.control_plane.freezing_proxy import FreezingProxy
from kit.control_plane.operator_scenes import (
    Workers,
    answer,
    apply,
    events_of,
    inference_job,
    make_operator,
    phases,
    running,
    writes,
)
from kit.control_plane.stand_in_node import StandInNode
from kit.control_plane.waiting import eventually
from kit.ports import free_port
from pipemax_operator.crd import build_crd

# They share a control plane of their own; the longest of them would keep a test process busy alone.
pytestmark = pytest.mark.xdist_group("operator-life")

NUM_KILLS = 20
LEASE_SECONDS = 15


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Of its own: its API server is killed."""
    plane = ControlPlane(tmp_path_factory.mktemp("life-plane"))
    plane.start()
    try:
        document = yaml.safe_dump(build_crd())
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=document)
        plane.wait_for_kinds("crd/inferencejobs.pipemax.dev")
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def node(plane: ControlPlane) -> Iterator[StandInNode]:
    node = StandInNode(plane, f"stand-in-{uuid.uuid4().hex[:8]}", gpus=80)
    node.join()
    yield node
    node.leave()


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"life-{uuid.uuid4().hex[:10]}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


def transitions(plane: ControlPlane, namespace: str, name: str) -> int:
    return int(plane.get("lease", name, "-n", namespace)["spec"]["leaseTransitions"])


def holder(plane: ControlPlane, namespace: str, name: str) -> str:
    found = plane.get("leases", "-n", namespace)["items"]
    held = [one["spec"].get("holderIdentity", "") for one in found]
    return str(held[0]) if held else ""


def test_killed_twenty_times_at_any_moment(
    plane: ControlPlane, node: StandInNode, namespace: str, tmp_path: Path
) -> None:
    names = ["first", "second", "third"]
    random.seed(20)
    operator = make_operator(plane, tmp_path, namespace, lease=f"{namespace}/own", identity="pod-a")
    with Workers(plane, node, namespace) as workers, contextlib.ExitStack() as stack:
        stack.callback(operator.stop)
        for number in range(NUM_KILLS):
            operator.start(wait=False)
            if number % 7 == 3:
                apply(plane, namespace, names[number // 7])
            if number == NUM_KILLS - 5:
                workers.may_end.set()
            # It needs a second or two to its first write: half of the kills come after that.
            time.sleep(random.uniform(0.5, 3.5))
            operator.kill()
        operator.start()
        eventually(lambda: phases(plane, namespace) == dict.fromkeys(names, "Complete"))
    assert transitions(plane, namespace, "own") == 0  # a restarted container goes on at once
    children = plane.get("jobs", "-n", namespace)["items"]
    assert sorted(child["metadata"]["name"] for child in children) == sorted(names)
    assert len(plane.get("pods", "-n", namespace)["items"]) == len(names)
    for one in plane.get("inferencejobs", "-n", namespace)["items"]:
        status = one["status"]
        assert (status["attempt"], status["progress"]["summary"]) == (1, "616/616")
        true = [c["type"] for c in status["conditions"] if c["status"] == "True"]
        assert "Complete" in true
        assert "Failed" not in true
    told = events_of(plane, namespace)
    assert len(told) == len(set(told))
    for name in names:
        assert len([one for one in told if one[:2] == (name, "AllRecordsWritten")]) == 1


def test_the_api_server_is_killed_in_mid_job(
    plane: ControlPlane, node: StandInNode, namespace: str, tmp_path: Path
) -> None:
    operator = make_operator(plane, tmp_path, namespace)
    with running(operator), Workers(plane, node, namespace) as workers:
        apply(plane, namespace, "before")
        eventually(lambda: phases(plane, namespace) == {"before": "Running"})
        first = operator.process_id
        plane.restart_api_server(down_seconds=5)
        apply(plane, namespace, "after")
        workers.may_end.set()
        done = {"before": "Complete", "after": "Complete"}
        eventually(lambda: phases(plane, namespace) == done)
        assert operator.process_id == first
        eventually(lambda: answer(operator, "/readyz")[0] == 200)
    assert "Traceback" not in operator.log.read_text(encoding="utf-8")


def test_watches_that_fall_silent_are_opened_again(
    plane: ControlPlane, node: StandInNode, namespace: str, tmp_path: Path
) -> None:
    host, port = plane.server.removeprefix("https://").split(":")
    proxy = FreezingProxy((host, int(port)))
    kubeconfig = tmp_path / "by-proxy.kubeconfig"
    token = yaml.safe_load(plane.kubeconfig.read_text())["users"][0]["user"]["token"]
    server = f"https://127.0.0.1:{proxy.port}"
    write_kubeconfig(kubeconfig, server, token, plane.certificate)
    operator = make_operator(plane, tmp_path, namespace, kubeconfig, audit_seconds=3600)
    try:
        with running(operator), Workers(plane, node, namespace) as workers:
            apply(plane, namespace, "before")
            eventually(lambda: phases(plane, namespace) == {"before": "Running"})
            assert proxy.freeze() >= 3
            apply(plane, namespace, "after")
            workers.may_end.set()
            done = {"before": "Complete", "after": "Complete"}
            eventually(lambda: phases(plane, namespace) == done)
            assert "pipemax_watch_missed_objects_total 0.0" in answer(operator, "/metrics")[1]
    finally:
        proxy.close()


def test_of_two_operators_one_acts_and_the_other_takes_its_place(
    plane: ControlPlane, node: StandInNode, namespace: str, tmp_path: Path
) -> None:
    common = {"lease": f"{namespace}/both", "lease_seconds": LEASE_SECONDS}
    one, two = (
        make_operator(plane, tmp_path / name, namespace, identity=name, **common)
        for name in ("one", "two")
    )
    with running(one), Workers(plane, node, namespace) as workers:
        eventually(lambda: holder(plane, namespace, "both") == "one")
        with running(two):
            # A follower is ready: it has listed all, and would act at once.
            eventually(lambda: answer(two, "/readyz")[0] == 200)
            apply(plane, namespace, "first")
            eventually(lambda: phases(plane, namespace) == {"first": "Running"})
            assert writes(two) == 0
            assert writes(one) > 0
            assert "pipemax_operator_leading 0.0" in answer(two, "/metrics")[1]
            one.kill()
            began = time.monotonic()
            apply(plane, namespace, "second")
            workers.may_end.set()
            done = {"first": "Complete", "second": "Complete"}
            eventually(lambda: phases(plane, namespace) == done)
            print(f"taken over and done {time.monotonic() - began:.1f} s after the kill")
            assert holder(plane, namespace, "both") == "two"
            # In order: the one that ends leaves the lease, and the other need not wait for it.
            one.start()
            two.stop()
            apply(plane, namespace, "third")
            eventually(lambda: phases(plane, namespace).get("third") == "Complete")
            assert "is left to others" in two.log.read_text(encoding="utf-8")
            assert holder(plane, namespace, "both") == "one"
    told = events_of(plane, namespace)
    assert len(told) == len(set(told))
    assert len(plane.get("pods", "-n", namespace)["items"]) == 3


def test_the_api_server_refuses_a_status_made_from_an_old_reading(
    plane: ControlPlane, namespace: str
) -> None:
    apply(plane, namespace, "reviews")
    old = plane.get("ij", "reviews", "-n", namespace)["metadata"]["resourceVersion"]
    plane.kubectl("label", "ij", "reviews", "-n", namespace, "team=a")
    metadata = {"name": "reviews", "namespace": namespace, "resourceVersion": old}
    document = {**inference_job("reviews"), "metadata": metadata, "status": {"phase": "Running"}}
    document.pop("spec")
    how = ("--server-side", "--subresource=status", "--field-manager=pipemax-operator")
    refused = plane.kubectl("apply", *how, "-f", "-", stdin=yaml.safe_dump(document), check=False)
    assert "the object has been modified" in refused
    assert phases(plane, namespace) == {"reviews": ""}


def test_without_a_way_to_the_api_server_it_lives_and_is_not_ready(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "nowhere.kubeconfig"
    server = f"https://127.0.0.1:{free_port()}"
    write_kubeconfig(kubeconfig, server, "token", plane.certificate)
    operator = make_operator(plane, tmp_path, namespace, kubeconfig)
    with running(operator):
        eventually(lambda: "Connect" in answer(operator, "/readyz")[1])
        assert answer(operator, "/readyz")[0] == 503
        assert operator.is_alive()
        with urllib.request.urlopen(f"http://127.0.0.1:{operator.port}/healthz", timeout=5) as page:
            assert page.status == 200
    lines = [json.loads(one) for one in operator.log.read_text(encoding="utf-8").splitlines()]
    assert any("the lists are tried again" in one["message"] for one in lines)
    assert all(one["severity"] for one in lines)
