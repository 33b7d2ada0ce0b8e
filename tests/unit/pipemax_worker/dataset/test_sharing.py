"""Nodes prove that they see the same folder before they start."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from kit.store import ManualClock, MemoryStore
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.sharing import (
    NODES_PREFIX,
    Beacon,
    is_another_node,
    prove_sharing,
    read_beacons,
    read_this_node,
)
from pipemax_worker.errors import StoreNotSharedError

_A, _B = Beacon("node-a", "boot-1", True), Beacon("node-b", "boot-2", True)


class Waiting:
    """Time that passes only in ``sleep``, where others may act."""

    def __init__(self, store: ObjectStore, arrives: Beacon | None = None, after: int = 0) -> None:
        self.clock = ManualClock()
        self.num_sleeps = 0
        self._store, self._arrives, self._after = store, arrives, after

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.clock.seconds += seconds
        self.num_sleeps += 1
        if self._arrives is not None and self.num_sleeps == self._after:
            prove_sharing(self._store, self._arrives, self.clock)


def test_two_nodes_find_each_other_in_one_folder(tmp_path: Path) -> None:
    found: dict[str, Beacon] = {}

    def start(this: Beacon) -> None:
        found[this.name] = prove_sharing(LocalStore(tmp_path), this, MonotonicClock(), 30.0)

    workers = [threading.Thread(target=start, args=(node,)) for node in (_A, _B)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {"node-a": _B, "node-b": _A}


def test_a_folder_of_its_own_on_each_node_is_refused(tmp_path: Path) -> None:
    for node in (_A, _B):
        store = LocalStore(tmp_path / node.name)
        waiting = Waiting(store)
        with pytest.raises(StoreNotSharedError) as caught:
            prove_sharing(store, node, waiting.clock, 60.0, waiting.sleep)
        assert waiting.clock.seconds == 60.0
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / node.name}: this does not seem to be a folder")
        assert f"{node.name} has left ledger/nodes/{node.name} there" in message
        assert "no other node's in 60 s" in message
        assert "parallelism.nodes to 1" in message
        assert (caught.value.exit_code, caught.value.reason) == (74, "StoreNotShared")


def test_a_node_that_comes_late_is_waited_for() -> None:
    store = MemoryStore()
    store.put(NODES_PREFIX + "node-c", b"not yet whole")
    late = Waiting(store, _B, after=40)
    assert prove_sharing(store, _A, late.clock, 60.0, late.sleep) == _B
    assert late.clock.seconds == 40.0


def test_who_comes_back_finds_the_others_at_once() -> None:
    store, clock = MemoryStore(), ManualClock()
    waiting = Waiting(store, _B, after=1)
    prove_sharing(store, _A, waiting.clock, 60.0, waiting.sleep)
    for node, other in ((_A, _B), (_B, _A)):
        assert prove_sharing(store, node, clock, 60.0) == other
    assert clock.seconds == 0.0
    assert store.list(NODES_PREFIX) == ["ledger/nodes/node-a", "ledger/nodes/node-b"]


@pytest.mark.parametrize(
    ("one", "other", "is_another"),
    [
        (_A, _B, True),
        (_A, Beacon("node-a", "boot-9", True), False),  # after a restart of the node
        (_A, Beacon("node-b", "boot-1", True), True),  # nodes that are containers of one machine
        (_A, Beacon("pod-x", "boot-1", False), False),  # a pod of this node under its own name
        (Beacon("pod-x", "boot-1", False), Beacon("pod-y", "boot-1", False), False),
        (Beacon("host-x", "boot-1", False), Beacon("host-y", "boot-2", False), True),
    ],
)
def test_what_another_node_is(one: Beacon, other: Beacon, is_another: bool) -> None:
    assert is_another_node(one, other) is is_another
    assert is_another_node(other, one) is is_another


def test_this_node_is_called_as_the_operator_calls_it() -> None:
    named = read_this_node({"PIPEMAX_NODE_NAME": "gpu-7.rack-2"})
    assert (named.name, named.is_named) == ("gpu-7.rack-2", True)
    assert named.key == "ledger/nodes/gpu-7.rack-2"
    host = read_this_node({})
    assert not host.is_named
    assert host.name
    assert host.boot_id == named.boot_id
    assert Beacon("../a b/c", "", True).key == "ledger/nodes/_a_b_c"


def test_beacons_that_cannot_be_read_are_passed_over() -> None:
    store = MemoryStore()
    for key, data in (("x", b""), ("y", b"{"), ("z", b'{"name": 1}')):
        store.put(NODES_PREFIX + key, data)
    assert read_beacons(store) == []
