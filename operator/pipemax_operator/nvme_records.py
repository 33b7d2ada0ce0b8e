"""What the operator remembers of a job with a folder on nodes' disks, for as long as one may be
left. One ConfigMap a job in the operator's own namespace: it outlives job and namespace. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pipemax_operator import names
from pipemax_operator.conditions import format_time, parse_time
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

RECORD_LABEL = f"{names.GROUP}/nvme-record"
"""Of all records: the operator's release."""

_FIELD = "record.json"


@dataclass(frozen=True)
class NvmeRecord:
    """A job, by its UID, and the nodes on which its folder may be.

    root      ``kvCache.nvme.hostPath``, the folder that the job's own lies in.
    nodes     where its pods were, in order; one that is swept is taken out.
    ended_at  when it was found finished or gone: its folders may go. None: it may go on.
    """

    uid: str
    namespace: str
    name: str
    root: str
    nodes: tuple[str, ...] = ()
    ended_at: datetime | None = None

    def with_nodes(self, nodes: Iterable[str]) -> NvmeRecord:
        return replace(self, nodes=tuple(sorted({*self.nodes, *nodes})))

    def without_node(self, node: str) -> NvmeRecord:
        return replace(self, nodes=tuple(one for one in self.nodes if one != node))

    def ended(self, now: datetime) -> NvmeRecord:
        return self if self.ended_at else replace(self, ended_at=now)


def record_name(uid: str, settings: OperatorSettings) -> str:
    return f"{settings.system_name}-nvme-{uid}"


def build_record(record: NvmeRecord, settings: OperatorSettings) -> Document:
    """The ConfigMap."""
    body = {
        "uid": record.uid,
        "namespace": record.namespace,
        "name": record.name,
        "root": record.root,
        "nodes": record.nodes,
        "endedAt": record.ended_at and format_time(record.ended_at),
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": record_name(record.uid, settings),
            "namespace": settings.system_namespace,
            "labels": {**names.APP_LABELS, RECORD_LABEL: settings.system_name},
        },
        "data": {_FIELD: json.dumps(body)},
    }


def parse_record(document: Document) -> NvmeRecord | None:
    """None for one that somebody has changed beyond recognition."""
    try:
        body = json.loads(document["data"][_FIELD])
        ended = body["endedAt"]
        return NvmeRecord(
            uid=body["uid"],
            namespace=body["namespace"],
            name=body["name"],
            root=body["root"],
            nodes=tuple(body["nodes"]),
            ended_at=parse_time(ended) if ended else None,
        )
    except (KeyError, TypeError, ValueError):
        return None
