"""``manifests/examples/minimal`` on real nodes: its claims, and what a test machine adds."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.real_node_job import ROOT, WORKER_USER, Document, RealNodeJob

EXAMPLE = ROOT / "manifests" / "examples" / "minimal" / "job.yaml"


class MinimalExample(RealNodeJob):
    """The claims ``models`` and ``datasets`` are folders that all nodes see, as NFS is; the model
    is the tiny one under the example's name."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        host: Path,
        num_files: int,
        lines_per_file: int,
    ) -> None:
        super().__init__(plane, namespace, host, num_files, lines_per_file)
        document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
        self.name = document["metadata"]["name"]
        model = self.folder / "models" / Path(document["spec"]["model"]["uri"]).name
        shutil.copytree(ROOT / "models" / "tiny", model)
        reviews = self.folder / "datasets" / "reviews"
        shutil.move(self.input, reviews)
        self.output = self.folder / "datasets" / "results" / self.name
        self.output.mkdir(parents=True)
        os.chown(self.output, WORKER_USER, WORKER_USER)

    def add_claims(self) -> None:
        """Both claims, bound."""
        documents = [one for name in ("models", "datasets") for one in self._volume(name)]
        stdin = "\n".join(json.dumps(one) + "\n---" for one in documents)
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=stdin)
        bound = ("wait", "--for=jsonpath={.status.phase}=Bound", "pvc/models", "pvc/datasets")
        self.plane.kubectl(*bound, "-n", self.namespace, "--timeout=30s")

    def _volume(self, name: str) -> list[Document]:
        """A volume made by hand for one claim, as administrators do for NFS."""
        kind: Document = {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
        }
        size = {"storage": "1Gi"}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{self.namespace}-{name}"},
            "spec": {
                **kind,
                "capacity": size,
                "hostPath": {"path": str(self.folder / name)},
                "claimRef": {"namespace": self.namespace, "name": name},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                **kind,
                "resources": {"requests": size},
                "volumeName": f"{self.namespace}-{name}",
            },
        }
        return [volume, claim]

    def write_job(self, path: Path, nvme: Path, **spec: Any) -> Path:
        """The example with two nodes of eight stages, all three tiers (a device tier so small that
        KV moves), few requests at a time (so that one worker leaves something for the other), and
        the names that the questions call the tiny model by."""
        document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
        document["spec"]["model"] |= {"name": "tiny", "aliases": ["tiny-sorter"]}
        document["spec"] |= {
            "parallelism": {"nodes": 2, "stagesPerNode": 8},
            "engine": {
                "device": "cpu",
                "microBatches": 8,
                "maxNumRequests": 16,
                "lookAhead": 4,
                "prefixSharing": False,
                "deviceKvCache": "384Ki",
            },
            "kvCache": {"host": "64Mi", "nvme": {"hostPath": str(nvme), "size": "64Mi"}},
            "sampling": {"temperature": 0, "maxTokens": 200},
            **spec,
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return path
