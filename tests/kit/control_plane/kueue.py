"""Kueue as a process beside a control plane: its release's manifests, rights and webhooks.

Of a cluster only the pod and its Service are missing: the Service is another name of loopback, the
certificates that Kueue makes for its webhooks are copied out of their Secret as a kubelet does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.files import write_kubeconfig
from kit.control_plane.kueue_release import find_kueue
from kit.control_plane.parent_bound import start_bound
from kit.ports import free_port

NAMESPACE = "kueue-system"
_SERVICE_ACCOUNT = "kueue-controller-manager"
_WEBHOOK_SERVICE = "kueue-webhook-service"
_WEBHOOK_SECRET = "kueue-webhook-server-cert"
_START_TIMEOUT_SECONDS = 180.0
_STOP_TIMEOUT_SECONDS = 10.0

# What stands for the pod, and an API that only its Service could serve.
_LEFT_OUT = ("Deployment", "ConfigMap", "APIService")

Document = dict[str, Any]


class Kueue:
    """One manager. Its webhooks answer for the whole control plane: without it no pod is made."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.folder = folder
        self._release = find_kueue()
        self._webhook_port, self._health_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is ready. RuntimeError with the end of its log if it is not in time."""
        (self.folder / "certificates").mkdir(parents=True)
        self._apply_manifests()
        token = self.plane.kubectl("create", "token", _SERVICE_ACCOUNT, "-n", NAMESPACE).strip()
        kubeconfig = self.folder / "kubeconfig"
        write_kubeconfig(kubeconfig, self.plane.server, token, self.plane.certificate)
        configuration = self.folder / "configuration.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration()), encoding="utf-8")
        with open(self.folder / "kueue.log", "ab") as log:
            flags = (f"--config={configuration}", f"--kubeconfig={kubeconfig}", "--zap-log-level=2")
            self._process = start_bound([str(self._release.manager), *flags], log)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def log_tail(self, num_lines: int = 20) -> str:
        text = (self.folder / "kueue.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-num_lines:])

    # --- inside

    def _apply_manifests(self) -> None:
        documents: list[Document] = json.loads(self._release.manifests.read_text("utf-8"))
        kept = [self._placed(one) for one in documents if one["kind"] not in _LEFT_OUT]
        path = self.folder / "manifests.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": kept}), "utf-8")
        self.plane.kubectl("apply", "--server-side", "-f", str(path))
        crds = [f"crd/{one['metadata']['name']}" for one in kept if _is_crd(one)]
        self.plane.wait_for_kinds(*crds)

    def _placed(self, document: Document) -> Document:
        """Webhooks at this process's port; their Service stands for loopback."""
        if document["kind"] == "Service" and document["metadata"]["name"] == _WEBHOOK_SERVICE:
            document["spec"] = {"type": "ExternalName", "externalName": "localhost"}
        clients = [one["clientConfig"] for one in document.get("webhooks", ())]
        if _is_crd(document) and "webhook" in document["spec"].get("conversion", {}):
            clients.append(document["spec"]["conversion"]["webhook"]["clientConfig"])
        for client in clients:
            client["service"]["port"] = self._webhook_port
        return document

    def _configuration(self) -> Document:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": NAMESPACE,
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health_port}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {
                "host": "127.0.0.1",
                "port": self._webhook_port,
                "certDir": str(self.folder / "certificates"),
            },
            "leaderElection": {"leaderElect": False},
            "featureGates": {"VisibilityOnDemand": False},
            "integrations": {"frameworks": ["batch/job"]},
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            self._copy_certificates()
            with contextlib.suppress(OSError):
                url = f"http://127.0.0.1:{self._health_port}/readyz"
                with urllib.request.urlopen(url, timeout=30):
                    return
            time.sleep(0.2)
        raise RuntimeError(f"Kueue is not ready:\n{self.log_tail()}")

    def _copy_certificates(self) -> None:
        """The Secret as files, whole or not at all."""
        secret = self.plane.get("secret", _WEBHOOK_SECRET, "-n", NAMESPACE)
        for name, value in (secret.get("data") or {}).items():
            path = self.folder / "certificates" / name
            if not path.exists():
                partial = path.with_suffix(".partial")
                partial.write_bytes(base64.b64decode(value))
                partial.rename(path)


@contextlib.contextmanager
def running_kueue(plane: ControlPlane, folder: Path) -> Iterator[Kueue]:
    """A manager as long as the block runs."""
    kueue = Kueue(plane, folder)
    kueue.start()
    try:
        yield kueue
    finally:
        kueue.stop()


def _is_crd(document: Document) -> bool:
    return bool(document["kind"] == "CustomResourceDefinition")
