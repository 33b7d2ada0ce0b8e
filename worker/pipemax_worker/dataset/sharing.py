"""``ledger/nodes/NODE``: proves that the nodes of a job see the same folder, before they start.

A path that every node has (``/data/out``) looks the same to the job file whether it is one network
folder or a disk in each node; in the second case every node would compute the whole input. So each
worker leaves a beacon, and starts once it has seen one that another node left. Beacons stay: who
comes late, or comes back, finds those of the others at once.

``ledger/mark``: a word that whoever comes first leaves, and all who see the folder read. Workers
with different marks do not share it, which whoever hears of both can tell at once.
"""

from __future__ import annotations

import re
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from pipemax_worker.contract.clock import Clock
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.errors import StoreNotSharedError

NODES_PREFIX = "ledger/nodes/"
MARK_KEY = "ledger/mark"
NODE_NAME_VARIABLE = "PIPEMAX_NODE_NAME"
DEFAULT_WAIT_SECONDS = 60.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 1.0
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9._-]")


class Beacon(msgspec.Struct, frozen=True):
    """A node that has been here.

    name       of the node, else of the host
    boot_id    the running kernel's: two pods of one node have the same, under whatever host names
    is_named   the name is the node's own, from PIPEMAX_NODE_NAME (the operator sets it)
    """

    name: str
    boot_id: str
    is_named: bool

    @property
    def key(self) -> str:
        return NODES_PREFIX + (_NOT_IN_A_KEY.sub("_", self.name).lstrip(".") or "_")


def read_this_node(environment: Mapping[str, str]) -> Beacon:
    """The beacon of the node that this process runs on."""
    name = environment.get(NODE_NAME_VARIABLE, "")
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""
    return Beacon(name or socket.gethostname(), boot_id, is_named=bool(name))


def is_another_node(one: Beacon, other: Beacon) -> bool:
    """Pure. Names of nodes decide where both have one; else another kernel must run there too,
    since a pod's host name is its own."""
    if one.name == other.name:
        return False
    return (one.is_named and other.is_named) or one.boot_id != other.boot_id


def read_or_leave_mark(store: ObjectStore) -> str:
    """The same word for everybody who sees this folder, and for nobody else. Raises OutputError."""
    store.put_if_absent(MARK_KEY, f"{uuid.uuid4().hex}\n".encode())
    return store.get(MARK_KEY).decode("utf-8", "replace").strip()


def prove_sharing(
    store: ObjectStore,
    this: Beacon,
    clock: Clock,
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> Beacon:
    """Leave this node's beacon, wait for one of another node, and return that.

    Raises StoreNotSharedError if none has appeared after ``wait_seconds``, OutputError.
    """
    give_up_seconds = clock.now() + wait_seconds
    while True:
        # Written each time: over NFS a change of our own makes the client look at the folder anew.
        store.put(this.key, msgspec.json.encode(this) + b"\n")
        for beacon in read_beacons(store):
            if is_another_node(this, beacon):
                return beacon
        if clock.now() >= give_up_seconds:
            raise _not_shared(store, this, wait_seconds)
        sleep(min(_POLL_SECONDS, max(0.0, give_up_seconds - clock.now())))


def read_beacons(store: ObjectStore) -> list[Beacon]:
    """The beacons of all nodes that have been here; what is no beacon is passed over."""
    beacons = []
    for key in store.list(NODES_PREFIX):
        try:
            beacons.append(msgspec.json.decode(store.get(key), type=Beacon))
        except (ObjectNotFoundError, msgspec.DecodeError):
            continue
    return beacons


def _not_shared(store: ObjectStore, this: Beacon, wait_seconds: float) -> StoreNotSharedError:
    return StoreNotSharedError(
        f"{store.place}: this does not seem to be a folder that the job's nodes share: {this.name} "
        f"has left {this.key} there and saw no other node's in {wait_seconds:.0f} s; mount the "
        "same network folder on all nodes, or use pvc:// or s3:// (the others may only be late: "
        "run again then; to run on this machine alone, set parallelism.nodes to 1)"
    )
