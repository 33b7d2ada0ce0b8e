"""What real nodes take from the machine that they run on, and its return.

All of it carries one prefix, so that a run which was killed is cleaned up by the next one: a folder
(with the old values of sysctls in it), cgroup folders, one bridge. One run at a time has it all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "pipemax-nodes-"
BRIDGE = "pipemax-nodes0"
BRIDGE_ADDRESS = "10.253.199.1"
SUBNET = "10.253.199.0/24"
FIRST_POD_ADDRESS = "10.253.199.10"
KUBELET_FOLDER = Path("/var/lib/kubelet")

_CGROUPS = Path("/sys/fs/cgroup")
_LOCK = Path(tempfile.gettempdir()) / f"{PREFIX}lock"
_SYSCTL_FILE = "sysctls.json"
_OWNER_FILE = "kubelet-folder-is-ours"
# The kubelet sets these to what it wants.
_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
)


@contextlib.contextmanager
def node_host() -> Iterator[Path]:
    """A folder for nodes, on a machine that is ready for them; everything is taken back after.

    Waits for other test processes that run nodes.
    """
    with open(_LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        folder.chmod(0o755)
        try:
            _save_sysctls(folder)
            _make_kubelet_folder(folder)
            _make_bridge()
            yield folder
        finally:
            sweep()


def sweep() -> None:
    """Take back what this run, or any before it, has taken. Their nodes are dead: each ends with
    the process that started it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/"):
        _restore_sysctls(folder)
        if (folder / _OWNER_FILE).exists():
            with contextlib.suppress(OSError):
                KUBELET_FOLDER.rmdir()
        shutil.rmtree(folder, ignore_errors=True)
    for cgroup in _CGROUPS.glob(f"*/{PREFIX}*"):
        remove_cgroup(cgroup)
    for cgroup in _CGROUPS.glob(f"{PREFIX}*"):
        remove_cgroup(cgroup)
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)


# --- cgroups


def make_cgroups(name: str) -> None:
    """A folder for one node's pods below each controller. With cgroup v1 an empty cpuset takes no
    process: it gets the parent's processors and memory nodes."""
    if (_CGROUPS / "cgroup.controllers").exists():
        for word in (_CGROUPS / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (_CGROUPS / "cgroup.subtree_control").write_text(f"+{word}")
        (_CGROUPS / name).mkdir(exist_ok=True)
        return
    for controller in _v1_controllers():
        (controller / name).mkdir(exist_ok=True)
        for one in ("cpuset.cpus", "cpuset.mems"):
            if (controller / one).exists():
                (controller / name / one).write_text((controller / one).read_text())


def remove_cgroups(name: str) -> None:
    for controller in (_CGROUPS, *_v1_controllers()):
        if (controller / name).is_dir():
            remove_cgroup(controller / name)


def remove_cgroup(folder: Path) -> None:
    """Kill what is in it (a dead node's processes take a moment to go), then remove it."""
    for child in [path for path in folder.iterdir() if path.is_dir()]:
        remove_cgroup(child)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            _kill_all(folder)
            time.sleep(0.05)


def list_processes(cgroup: str) -> set[int]:
    """Ids of all processes in the pods of the node that has this cgroup."""
    found: set[int] = set()
    for controller in (_CGROUPS, *_v1_controllers()):
        for path in (controller / cgroup).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found |= {int(line) for line in path.read_text().split()}
    return found - {0}


def find_processes(*arguments: str) -> set[int]:
    """Ids of the processes that were started with all of these arguments."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            given = path.read_bytes().decode(errors="replace").split("\0")
            if set(arguments) <= set(given):
                found.add(int(path.parent.name))
    return found


def _kill_all(folder: Path) -> None:
    for line in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            if int(line) > 0:  # 0: in another pid namespace
                os.kill(int(line), signal.SIGKILL)


def _v1_controllers() -> list[Path]:
    return [path for path in sorted(_CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]


# --- sysctls, folders, the bridge


def _save_sysctls(folder: Path) -> None:
    found = {}
    for name in _SYSCTLS:
        with contextlib.suppress(OSError):
            found[name] = (Path("/proc/sys") / name).read_text()
    (folder / _SYSCTL_FILE).write_text(json.dumps(found))


def _restore_sysctls(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        for name, value in json.loads((folder / _SYSCTL_FILE).read_text()).items():
            path = Path("/proc/sys") / name
            with contextlib.suppress(OSError):
                if path.read_text() != value:
                    path.write_text(value)


def _make_kubelet_folder(folder: Path) -> None:
    """Only a place to mount on: each node sees a folder of its own there."""
    if not KUBELET_FOLDER.exists():
        KUBELET_FOLDER.mkdir(parents=True)
        (folder / _OWNER_FILE).touch()


def _make_bridge() -> None:
    """The nodes' network, which leads nowhere else: their kubelets listen on it too."""
    for command in (
        ["ip", "link", "add", BRIDGE, "type", "bridge"],
        ["ip", "address", "add", f"{BRIDGE_ADDRESS}/{SUBNET.partition('/')[2]}", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ):
        subprocess.run(command, check=True, capture_output=True)
