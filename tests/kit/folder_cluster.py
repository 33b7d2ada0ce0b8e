"""A cluster as the sweeping of NVMe folders sees it: in memory, with real folders as nodes' disks.

A sweep's pod runs when its node is up (``run_sweeps``), by the worker's own command.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from kit.inference_jobs import make_document
from pipemax_operator.api_server import ForbiddenError
from pipemax_operator.manifests.sweep_job import parse_sweep_job
from pipemax_operator.settings import OperatorSettings
from pipemax_operator.sweep_metrics import SweepMetrics
from pipemax_worker.cli.host_folders import encode_report
from pipemax_worker.runner.folder_sweep import sweep_job_folders
from pipemax_worker.runner.job_folder import JobMarker, prepare_job_folder
from prometheus_client import CollectorRegistry

Document = dict[str, Any]

SETTINGS = OperatorSettings(system_namespace="pipemax-system", poll_seconds=1.0)
ROOT = "/mnt/nvme"
START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


class FolderCluster:
    """InferenceJobs of the name ``reviews``, by UID, on ``nodes``; a clock that tests turn.

    ``forbidden``: namespaces whose jobs the operator may not see.
    ``fails``: what every call raises, while it is set.
    ``registry``: what sweepers export.
    """

    def __init__(self, disks: Path, *nodes: str) -> None:
        self.nodes = {node: disks / node for node in nodes}
        for disk in self.nodes.values():
            disk.mkdir()
        self.down: set[str] = set()
        self.jobs: dict[str, Document] = {}
        self.pods: dict[str, list[Document]] = {}
        self.records: dict[str, Document] = {}
        self.sweep_jobs: dict[str, Document] = {}
        self.sweep_pods: list[Document] = []
        self.forbidden: set[str] = set()
        self.fails: Exception | None = None
        self.calls: list[str] = []
        self.seconds = 0.0
        self.exit_code = 0
        self.registry = CollectorRegistry()
        self.metrics = SweepMetrics(self.registry)

    # --- the world

    def add_job(self, uid: str, *nodes: str, namespace: str = "team-a") -> Document:
        """A job whose pods have run on ``nodes``, and have left a folder there."""
        document = make_document(kvCache={"nvme": {"hostPath": ROOT, "size": "1Gi"}})
        document["metadata"] |= {"uid": uid, "namespace": namespace, "generation": 1}
        self.jobs[uid] = document
        self.pods[uid] = []
        for node in nodes:
            self.add_pod(uid, node)
        return document

    def add_pod(self, uid: str, node: str, phase: str = "Succeeded") -> None:
        metadata = self.jobs[uid]["metadata"]
        marker = JobMarker(uid, metadata["namespace"], metadata["name"])
        prepare_job_folder(self.nodes[node], marker, os.getuid())
        pod = {"metadata": {"name": f"pod-{node}"}, "spec": {"nodeName": node}}
        self.pods[uid].append({**pod, "status": {"phase": phase}})

    def finish(self, uid: str, kind: str = "Complete") -> None:
        self.jobs[uid]["status"] = {"conditions": [{"type": kind, "status": "True"}]}

    def delete(self, uid: str) -> None:
        del self.jobs[uid]

    def folders(self, node: str) -> set[str]:
        return {path.name for path in self.nodes[node].iterdir()}

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def run_sweeps(self) -> None:
        """The pods of sweeps whose node is up run to their end."""
        for name, document in self.sweep_jobs.items():
            observed = parse_sweep_job(document)
            assert observed is not None
            node = observed.sweep.disk.node
            if observed.is_over or node in self.down:
                continue
            report = sweep_job_folders(self.nodes[node], observed.sweep.uids)
            self.end_sweep(name, encode_report(report, 4096).decode())

    def end_sweep(self, name: str, message: str) -> None:
        kind = "Failed" if self.exit_code else "Complete"
        self.sweep_jobs[name]["status"] = {"conditions": [{"type": kind, "status": "True"}]}
        ended = {"terminated": {"exitCode": self.exit_code, "message": message}}
        self.sweep_pods.append(
            {
                "metadata": {"ownerReferences": [{"name": name}]},
                "status": {"containerStatuses": [{"state": ended}]},
            }
        )

    # --- the client

    async def list_records(self) -> Sequence[Document]:
        self._called("list records")
        return [*self.records.values()]

    async def list_sweep_jobs(self) -> Sequence[Document]:
        self._called("list jobs")
        return [msgspec.json.decode(msgspec.json.encode(one)) for one in self.sweep_jobs.values()]

    async def list_sweep_pods(self) -> Sequence[Document]:
        self._called("list pods")
        return [*self.sweep_pods]

    async def apply(self, document: Document) -> None:
        self._called(f"apply {document['kind']}")
        place = self.sweep_jobs if document["kind"] == "Job" else self.records
        assert document["metadata"]["namespace"] == SETTINGS.system_namespace
        place[document["metadata"]["name"]] = document

    async def delete_record(self, name: str) -> None:
        self._called("delete record")
        del self.records[name]

    async def delete_sweep_job(self, name: str) -> None:
        self._called("delete job")
        self.sweep_jobs.pop(name, None)

    async def is_over(self, namespace: str, name: str, uid: str) -> bool:
        self._called("is over")
        if namespace in self.forbidden:
            raise ForbiddenError(f"cannot list inferencejobs in {namespace}")
        job = self.jobs.get(uid)
        return job is None or bool((job.get("status") or {}).get("conditions"))

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.fails is not None:
            raise self.fails
