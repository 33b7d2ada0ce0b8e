"""A real node: kubelet, containerd and runc in a pid and a mount namespace of their own.

Several run on one machine. ``crash`` is a power cut: one ``kill -9`` that leaves no process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kit.control_plane.binaries import find_binaries
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.real_node_files import (
    write_containerd_config,
    write_first_process,
    write_kubelet_config,
    write_network_config,
)
from kit.control_plane.real_node_host import (
    BRIDGE_ADDRESS,
    PREFIX,
    find_processes,
    list_processes,
    make_cgroups,
    node_host,
    remove_cgroups,
)
from kit.control_plane.real_node_image import write_images
from kit.control_plane.real_node_needs import provide_needs
from kit.ports import free_port

START_TIMEOUT_SECONDS = 180.0
NODE_LABEL = "pipemax.dev/test-node"


class RealNode:
    """``nvme`` is a folder on this node's own disk: the same path on every node, other bytes."""

    def __init__(self, plane: ControlPlane, host: Path, name: str, gpus: int = 8) -> None:
        self.plane = plane
        self.name = name
        self.folder = host / name
        self.nvme = host / "nvme"
        self._gpus = gpus
        self._cgroup = f"{PREFIX}{name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._script = self._write_files(host)

    def start(self) -> None:
        """Returns when the node is Ready and has its GPUs. RuntimeError with its logs if not."""
        make_cgroups(self._cgroup)
        self._started = datetime.now(UTC)
        with open(self.folder / "first-process.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "-m", "-p", "--fork", "--mount-proc", "--kill-child"),
                    *("sh", str(self._script)),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait(self._is_registered, "has not joined")
        self._add_gpus()
        self._wait(self._is_ready, "is not ready")

    def crash(self) -> None:
        """SIGKILL to everything on it at once; nothing is told to the control plane."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None
        remove_cgroups(self._cgroup)

    def leave(self) -> None:
        """The node goes for good, with what runs on it."""
        self.crash()
        self.plane.kubectl("delete", "node", self.name, "--ignore-not-found", check=False)

    def freeze(self) -> None:
        """Its kubelet stops answering while its pods run on: a network that is cut."""
        self._signal_kubelet(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_kubelet(signal.SIGCONT)

    def own_nvme(self) -> Path:
        """What is at ``nvme`` on this node, seen from outside of it."""
        return self.folder / "nvme"

    def logs(self) -> str:
        """The ends of the logs of what runs on it."""
        tails = []
        for name in ("first-process", "containerd", "kubelet"):
            path = self.folder / f"{name}.log"
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()[-15:]
                tails.append("\n".join([f"--- {name}", *lines]))
        return "\n".join(tails)

    def kill_workers(self) -> int:
        """SIGKILL to the worker in every pod here, as the out-of-memory killer does; how many."""
        workers = self._workers()
        for process_id in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        return len(workers)

    def worker_variables(self) -> list[dict[str, str]]:
        """Of each worker here: the environment that it was started with."""
        texts = [Path(f"/proc/{one}/environ").read_text() for one in self._workers()]
        pairs = ([line.partition("=") for line in text.split("\0") if line] for text in texts)
        return [{name: value for name, _, value in found} for found in pairs]

    def freeze_workers(self) -> int:
        """Stop every process of every pod here, as a hung file system does; how many they are."""
        return self._signal_pods(signal.SIGSTOP)

    def thaw_workers(self) -> int:
        return self._signal_pods(signal.SIGCONT)

    def _workers(self) -> set[int]:
        return list_processes(self._cgroup) & find_processes("run", "/etc/pipemax/job.yaml")

    def _signal_pods(self, how: signal.Signals) -> int:
        processes = list_processes(self._cgroup)
        for process_id in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, how)
        return len(processes)

    # --- inside

    def _write_files(self, host: Path) -> Path:
        self.folder.mkdir()
        self.own_nvme().mkdir()
        self.nvme.mkdir(exist_ok=True)
        images = host / "images.tar"
        if not images.exists():
            write_images(images)
        write_containerd_config(self.folder)
        write_network_config(self.folder, host / "addresses", self.plane.address)
        write_kubelet_config(self.folder, self._cgroup, free_port(BRIDGE_ADDRESS))
        return write_first_process(
            self.folder,
            self.name,
            find_binaries()["kubelet"],
            self.plane.kubeconfig,
            images,
            {self.own_nvme(): self.nvme},
            {NODE_LABEL: self.name},
        )

    def _status(self) -> dict[str, Any]:
        found = self.plane.kubectl("get", "node", self.name, "-o", "json", check=False)
        try:
            status: dict[str, Any] = json.loads(found)["status"]
        except (json.JSONDecodeError, KeyError):
            return {}
        return status

    def _is_registered(self) -> bool:
        return "capacity" in self._status()

    def _is_ready(self) -> bool:
        """Ready by this start's word: a crashed node stays Ready until its grace is over."""
        lease = ("lease", self.name, "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}")
        renewed = self.plane.kubectl("get", *lease, "--ignore-not-found")
        if not renewed or datetime.fromisoformat(renewed) < self._started:
            return False
        status = self._status()
        ready = [c for c in status.get("conditions", ()) if c["type"] == "Ready"]
        has_gpus = status.get("allocatable", {}).get("nvidia.com/gpu") == str(self._gpus)
        return has_gpus and bool(ready) and ready[0]["status"] == "True"

    def _add_gpus(self) -> None:
        """As a device plugin would: the kubelet keeps what it finds there."""
        body = {"status": {"capacity": {"nvidia.com/gpu": str(self._gpus)}}}
        self.plane.kubectl(
            *("patch", "node", self.name, "--subresource=status", "--type=merge"),
            *("-p", json.dumps(body)),
        )

    def _wait(self, is_so: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if is_so():
                return
            time.sleep(0.2)
        raise RuntimeError(f"node {self.name} {problem}:\n{self.logs()}")

    def _signal_kubelet(self, how: signal.Signals) -> None:
        for process_id in find_processes(f"--hostname-override={self.name}"):
            os.kill(process_id, how)


@contextlib.contextmanager
def real_nodes(plane: ControlPlane, *names: str) -> Iterator[Mapping[str, RealNode]]:
    """Nodes of these names (and a suffix), all Ready; gone with all they had after the block.

    Raises NodesImpossibleError. Waits for other test processes that run nodes.
    """
    provide_needs()
    suffix = uuid.uuid4().hex[:6]
    with node_host() as host, contextlib.ExitStack() as stack:
        nodes = {name: RealNode(plane, host, f"{name}-{suffix}") for name in names}
        for node in nodes.values():
            stack.callback(node.leave)
            node.start()
        yield nodes
