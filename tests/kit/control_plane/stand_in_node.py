"""A node without a kubelet: a Node object with GPUs, a lease, and pods that do as they are told.

For what needs no container: placement, statuses, thousands of nodes. Real nodes are next door.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

from kit.control_plane.api_client import APPLY
from kit.control_plane.control_plane import NODE_GRACE_SECONDS, ControlPlane

Document = dict[str, Any]


class StandInNode:
    """``nvidia.com/gpu: 8`` and no taints; Ready as long as its lease is renewed."""

    def __init__(self, plane: ControlPlane, name: str, gpus: int = 8) -> None:
        self.plane = plane
        self.name = name
        self._api = plane.api()
        self._gpus = gpus
        self._left = threading.Event()
        self._is_away = False
        self._beat = threading.Thread(target=self._renew_for_ever, daemon=True)

    def join(self) -> None:
        """Make the node, ready for pods."""
        document = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
        }
        self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
        amounts = {
            "cpu": "64",
            "memory": "512Gi",
            "pods": "110",
            "nvidia.com/gpu": str(self._gpus),
            "ephemeral-storage": "1Ti",
        }
        status = {"capacity": amounts, "allocatable": amounts}
        self._patch_status(status)
        self.boot()
        self.come_back()
        self._beat.start()
        taint = "node.kubernetes.io/not-ready-"
        self.plane.kubectl("taint", "node", self.name, taint, check=False)

    def vanish(self) -> None:
        """It answers no more; its pods, so far as anybody knows, are as they were."""
        self._is_away = True

    def come_back(self) -> None:
        """Its kubelet answers (again)."""
        self._is_away = False
        self._say_ready()
        self.renew()

    def boot(self) -> None:
        """The machine is started (again): the kubelet tells of another boot."""
        self._patch_status({"nodeInfo": {"bootID": str(uuid.uuid4())}})

    def _say_ready(self) -> None:
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "stand-in",
            "lastHeartbeatTime": _now(),
            "lastTransitionTime": _now(),
        }
        self._patch_status({"conditions": [condition]})

    def leave(self) -> None:
        """The node object goes."""
        self._left.set()
        self._beat.join()
        self.plane.kubectl("delete", "node", self.name)

    def _renew_for_ever(self) -> None:
        while not self._left.wait(NODE_GRACE_SECONDS / 4):
            if not self._is_away:
                with contextlib.suppress(AssertionError):  # the API server may be away too
                    self.renew()
                    if not self._is_ready():
                        self._say_ready()  # the node controller gave it up while it was not heard

    def _is_ready(self) -> bool:
        conditions = self._api.get(f"/api/v1/nodes/{self.name}")["status"].get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def renew(self) -> None:
        """Renew the lease: without that the node is lost after the control plane's grace."""
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": 3600,
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"
        self._api.patch(f"{path}?fieldManager=stand-in&force=true", lease, APPLY)

    def run_pod(self, namespace: str, pod: str, address: str = "127.0.0.1") -> None:
        """The pod runs and is ready."""
        state = {"running": {"startedAt": _now()}}
        self._pod_status(namespace, pod, "Running", state, ready=True, address=address)

    def end_pod(self, namespace: str, pod: str, exit_code: int, message: str = "") -> None:
        """The worker has ended."""
        ended = {
            "exitCode": exit_code,
            "reason": "Error" if exit_code else "Completed",
            "message": message,
            "startedAt": _now(),
            "finishedAt": _now(),
        }
        phase = "Failed" if exit_code else "Succeeded"
        self._pod_status(namespace, pod, phase, {"terminated": ended}, ready=False)

    def refuse_pod(self, namespace: str, pod: str, reason: str, message: str) -> None:
        """The kubelet's word on a container that cannot run."""
        waiting = {"waiting": {"reason": reason, "message": message}}
        self._pod_status(namespace, pod, "Pending", waiting, ready=False)

    def _pod_status(
        self,
        namespace: str,
        pod: str,
        phase: str,
        state: Document,
        ready: bool,
        address: str | None = None,
    ) -> None:
        container = {
            "name": "worker",
            "image": "stand-in",
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }
        status: Document = {
            "phase": phase,
            "startTime": _now(),
            "containerStatuses": [container],
            "conditions": [
                {
                    "type": kind,
                    "status": "True" if ready else "False",
                    "lastTransitionTime": _now(),
                }
                for kind in ("Ready", "ContainersReady")
            ],
        }
        if address is not None:
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        self._api.patch(f"/api/v1/namespaces/{namespace}/pods/{pod}/status", {"status": status})

    def _patch_status(self, status: Document) -> None:
        self._api.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
