"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes on loopback.

Everything listens on free ports of one address and lives in one folder; nothing outlives ``stop``,
nor the test process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.control_plane.api_client import ApiClient
from kit.control_plane.binaries import find_binaries
from kit.control_plane.clients import find_clients
from kit.control_plane.files import Credentials, write_kubeconfig
from kit.control_plane.parent_bound import start_bound
from kit.control_plane.waiting import eventually
from kit.ports import free_port

START_TIMEOUT_SECONDS = 180.0
STOP_TIMEOUT_SECONDS = 30.0

# What an on-prem cluster runs of these, as far as the operator and its jobs touch it. Node loss
# within seconds instead of a minute: 8 s grace.
CONTROLLERS = (
    "job-controller,garbage-collector-controller,namespace-controller,"
    "ttl-after-finished-controller,pod-garbage-collector-controller,node-lifecycle-controller,"
    "taint-eviction-controller,disruption-controller,deployment-controller,replicaset-controller,"
    "serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,"
    "clusterrole-aggregation-controller,persistentvolume-binder-controller"
)
NODE_GRACE_SECONDS = 8


class ControlPlane:
    """One control plane. ``kubeconfig`` is the administrator's."""

    def __init__(
        self,
        folder: Path,
        address: str = "127.0.0.1",
        node_grace_seconds: int = NODE_GRACE_SECONDS,
        client_flags: Sequence[str] = (),
    ) -> None:
        """``client_flags``: further ones of controller manager and scheduler, as clients."""
        self.folder = folder
        self.address = address
        self._node_grace_seconds = node_grace_seconds
        self._client_flags = client_flags
        self.kubectl_path = find_clients()["kubectl"]
        self.helm_path = find_clients()["helm"]
        self._binaries = find_binaries()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}

    # --- start and end

    def start(self) -> None:
        """Start all four; returns when the API server is ready. RuntimeError if it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("etcd", "etcd-peer", "api", "kcm", "scheduler")
        self._ports = {name: free_port(self.address) for name in names}
        self._credentials = Credentials(self.folder)
        self.certificate = self.folder / "apiserver" / "apiserver.crt"
        try:
            self._start_etcd()
            self.start_api_server()
            self._write_kubeconfigs()
            self._start_controllers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes, the newest first."""
        for name in reversed(list(self._processes)):
            self._stop(name)

    def restart_api_server(self, down_seconds: float = 0.0) -> None:
        """Kill the API server and start it again on its port: a crash, seen from its clients."""
        self._stop("kube-apiserver", signal.SIGKILL)
        time.sleep(down_seconds)
        self.start_api_server()

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self._ports['api']}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def process_id(self, name: str) -> int:
        return self._processes[name].pid

    # --- clients

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run the real kubectl as administrator; its output. AssertionError with all it said."""
        return self._client(self.kubectl_path, arguments, stdin, check)

    def helm(self, *arguments: str, check: bool = True) -> str:
        return self._client(self.helm_path, arguments, None, check)

    def get(self, *arguments: str) -> Any:
        """``kubectl get ... -o json``, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def api(self) -> ApiClient:
        """As administrator, without kubectl."""
        return ApiClient(self.server, self._credentials.tokens["admin"], self.certificate)

    def wait_for_kinds(self, *names: str) -> None:
        """Until these (``crd/NAME``) are served. ``kubectl wait`` fails on one that has no
        conditions yet."""
        said = 'jsonpath={.status.conditions[?(@.type=="Established")].status}'
        for name in names:
            query = ("get", name, "-o", said)
            eventually(lambda query=query: self.kubectl(*query, check=False).strip() == "True")

    def _client(
        self, program: Path, arguments: tuple[str, ...], stdin: str | None, check: bool
    ) -> str:
        result = subprocess.run(
            [str(program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder)},
        )
        said = result.stdout + result.stderr
        assert not check or result.returncode == 0, f"{program.name} {' '.join(arguments)}: {said}"
        return result.stdout if check else said

    # --- the processes

    def _start_etcd(self) -> None:
        client, peer = (f"http://{self.address}:{self._ports[n]}" for n in ("etcd", "etcd-peer"))
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def start_api_server(self) -> None:
        key = self._credentials.service_account_key
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://{self.address}:{self._ports['etcd']}",
            f"--secure-port={self._ports['api']}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--cert-dir={self.folder / 'apiserver'}",
            f"--token-auth-file={self._credentials.token_file}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self._wait_until_ready()

    def _write_kubeconfigs(self) -> None:
        for user, token in self._credentials.tokens.items():
            name = user.removeprefix("system:")
            path = self.folder / f"{name}.kubeconfig"
            write_kubeconfig(path, self.server, token, self.certificate)

    def _start_controllers(self) -> None:
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.folder / 'kube-controller-manager.kubeconfig'}",
            "--leader-elect=false",
            f"--controllers={CONTROLLERS}",
            f"--node-monitor-grace-period={self._node_grace_seconds}s",
            f"--service-account-private-key-file={self._credentials.service_account_key}",
            f"--root-ca-file={self.certificate}",
            "--use-service-account-credentials",
            f"--bind-address={self.address}",
            f"--secure-port={self._ports['kcm']}",
            f"--cert-dir={self.folder / 'kcm'}",
            *self._client_flags,
        )
        self._run(
            "kube-scheduler",
            f"--kubeconfig={self.folder / 'kube-scheduler.kubeconfig'}",
            "--leader-elect=false",
            f"--bind-address={self.address}",
            f"--secure-port={self._ports['scheduler']}",
            f"--cert-dir={self.folder / 'scheduler'}",
            *self._client_flags,
        )

    def _run(self, name: str, *flags: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = start_bound([str(self._binaries[name]), *flags], log)

    def _stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self) -> None:
        kubeconfig = write_kubeconfig(
            self.kubeconfig, self.server, self._credentials.tokens["admin"], self.certificate
        )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for name in ("etcd", "kube-apiserver"):
                if self._processes[name].poll() is not None:
                    raise RuntimeError(f"{name} ended at its start:\n{self._tail(name)}")
            said = subprocess.run(
                [str(self.kubectl_path), "--kubeconfig", str(kubeconfig), "get", "--raw=/readyz"],
                capture_output=True,
                check=False,
            )
            if said.stdout == b"ok":
                return
            time.sleep(0.2)
        raise RuntimeError(f"kube-apiserver is not ready:\n{self._tail('kube-apiserver')}")

    def _tail(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-20:])
