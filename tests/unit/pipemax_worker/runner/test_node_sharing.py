"""Which jobs have to prove that their nodes share the output."""

from __future__ import annotations

from typing import Any

import pytest
from kit.jobs import JobFolder, text_lines
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.sharing import NODES_PREFIX
from pipemax_worker.errors import StoreNotSharedError
from pipemax_worker.runner.node_sharing import check_sharing
from pipemax_worker.runner.preparation import PreparedJob, prepare_job


def _prepared(job: JobFolder, changes: dict[str, Any]) -> PreparedJob:
    job.write_input(text_lines(1))
    return prepare_job(job.write(changes), {})


def test_one_node_and_buckets_prove_nothing(job: JobFolder, s3_bucket: str) -> None:
    changes = {"parallelism.nodes": 2, "output.uri": f"{s3_bucket}/out"}
    for prepared in (_prepared(job, {}), _prepared(job, changes)):
        store, said = open_store(prepared.places.output), list[str]()
        check_sharing(prepared, store, said.append, 0.0)
        assert said == []
        assert store.list("") == []


def test_nodes_with_a_path_prove_that_they_share_it(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(job, {"parallelism.nodes": 2, "output.shared": True})
    store, said = LocalStore(job.output), list[str]()
    monkeypatch.setenv("PIPEMAX_NODE_NAME", "node-a")
    with pytest.raises(StoreNotSharedError, match="node-a has left"):
        check_sharing(prepared, store, said.append, 0.0)
    monkeypatch.setenv("PIPEMAX_NODE_NAME", "node-b")
    check_sharing(prepared, store, said.append, 0.0)
    assert said[-1] == f"nodes: node-b and node-a share {job.output}"
    assert store.list(NODES_PREFIX) == ["ledger/nodes/node-a", "ledger/nodes/node-b"]
