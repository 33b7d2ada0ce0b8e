"""The files of one real node: configurations of containerd, kubelet and network, its first process.

Paths such as ``/run`` and ``/var/lib/kubelet`` are the node's own: it mounts folders of its own
there, in a mount namespace of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.real_node_host import (
    BRIDGE,
    BRIDGE_ADDRESS,
    FIRST_POD_ADDRESS,
    KUBELET_FOLDER,
    SUBNET,
)
from kit.control_plane.real_node_image import SANDBOX_IMAGE

_CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")

# The first process of the node's pid namespace: all others end with it, and it ends with whoever
# holds the other end of its standard input.
_FIRST_PROCESS = """\
set -eu
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount --bind {folder}/kubelet {kubelet_folder}
mount --bind {folder}/log /var/log
{binds}
containerd --config {folder}/containerd.toml >>{folder}/containerd.log 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.05; done
ctr --namespace k8s.io images import {image} >>{folder}/containerd.log 2>&1
{kubelet} --config={folder}/kubelet.yaml --kubeconfig={kubeconfig} --root-dir={kubelet_folder} \
  --cert-dir={folder}/certificates --hostname-override={name} --node-ip={address} \
  --node-labels={labels} >>{folder}/kubelet.log 2>&1 &
cat >/dev/null
"""


def find_cni_folder() -> Path | None:
    """Where the network plugins are."""
    folders = [Path(one) for one in _CNI_FOLDERS]
    return next((one for one in folders if (one / "bridge").is_file()), None)


def write_containerd_config(folder: Path) -> None:
    config = f"""\
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{find_cni_folder()}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
    (folder / "containerd.toml").write_text(config)


def write_network_config(folder: Path, addresses: Path, api_server: str) -> None:
    """One bridge and one store of addresses for all nodes: their pods reach each other, and the
    API server where it listens on more than loopback."""
    plugin = {
        "type": "bridge",
        "bridge": BRIDGE,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(addresses),
            "ranges": [[{"subnet": SUBNET, "rangeStart": FIRST_POD_ADDRESS}]],
            "routes": [{"dst": f"{api_server}/32"}] if not api_server.startswith("127.") else [],
        },
    }
    document = {"cniVersion": "0.4.0", "name": "pipemax-nodes", "plugins": [plugin]}
    (folder / "cni").mkdir(exist_ok=True)
    (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(document))


def write_kubelet_config(folder: Path, cgroup: str, port: int) -> None:
    """It listens on the nodes' bridge alone, so whoever reaches it may use it."""
    document: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": BRIDGE_ADDRESS,
        "port": port,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "resolvConf": "",
        "volumePluginDir": f"{folder}/plugins",
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 10,
        "evictionHard": dict.fromkeys(
            ("memory.available", "nodefs.available", "imagefs.available"), "1%"
        ),
    }
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(document))


def write_first_process(
    folder: Path,
    name: str,
    kubelet: Path,
    kubeconfig: Path,
    image: Path,
    binds: dict[Path, Path],
    labels: dict[str, str],
) -> Path:
    """``binds``: folder of the node -> where it is seen there."""
    for own in ("kubelet", "log", "containerd", "opt", "plugins", "certificates"):
        (folder / own).mkdir(exist_ok=True)
    script = _FIRST_PROCESS.format(
        folder=folder,
        name=name,
        kubelet=kubelet,
        kubeconfig=kubeconfig,
        image=image,
        kubelet_folder=KUBELET_FOLDER,
        address=BRIDGE_ADDRESS,
        binds="\n".join(f"mount --bind {source} {seen}" for source, seen in binds.items()),
        labels=",".join(f"{key}={value}" for key, value in labels.items()),
    )
    path = folder / "first-process.sh"
    path.write_text(script)
    return path
