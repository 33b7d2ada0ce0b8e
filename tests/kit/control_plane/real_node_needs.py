"""What a machine must have for real nodes; installed where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess

from kit.control_plane.real_node_files import find_cni_folder

ALLOW_STANDIN = "PIPEMAX_ALLOW_STANDIN"
_PACKAGES = ("containerd", "runc", "containernetworking-plugins", "iproute2", "util-linux")
_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip", "unshare")
_INSTALL = f"apt-get install -y --no-install-recommends {' '.join(_PACKAGES)}"


class NodesImpossibleError(RuntimeError):
    """This machine cannot run real nodes; the message says what is missing and what to do."""


def provide_needs() -> None:
    """Returns on a machine that can run real nodes; installs Debian packages as root.

    Raises NodesImpossibleError.
    """
    if os.geteuid() != 0:
        raise _impossible("real nodes need root", "sudo -E make test")
    if _missing():
        _install()
    if missing := _missing():
        raise _impossible(f"real nodes need {', '.join(missing)}", f"sudo {_INSTALL}")
    if problem := _find_forbidden():
        raise _impossible(problem, "docker run --privileged, or a virtual machine")


def _missing() -> list[str]:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    return missing if find_cni_folder() else [*missing, "the CNI plugins"]


def _install() -> None:
    """The package lists are fetched only where the packages are not found without."""
    if shutil.which("apt-get") is None:
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for commands in ([_INSTALL], ["apt-get update", _INSTALL]):
        done = [
            subprocess.run(command.split(), env=environment, capture_output=True, check=False)
            for command in commands
        ]
        if all(one.returncode == 0 for one in done):
            return


def _find_forbidden() -> str | None:
    """What this machine does not let even root do."""
    mount = "mount -t tmpfs tmpfs /mnt"
    tried = subprocess.run(
        ["unshare", "-m", "-n", "-p", "--fork", "--mount-proc", "sh", "-c", mount],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        return f"namespaces and mounts are not allowed here: {tried.stderr.strip()}"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "/sys/fs/cgroup cannot be written"
    return None


def _impossible(problem: str, remedy: str) -> NodesImpossibleError:
    return NodesImpossibleError(
        f"{problem}: `{remedy}`. {ALLOW_STANDIN}=1 leaves the tests on real nodes out."
    )
