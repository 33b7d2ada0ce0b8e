"""Which jobs have to prove that their nodes share the output."""

from __future__ import annotations

from typing import Any

import pytest
from kit.jobs import JobFolder, text_lines
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.sharing import MARK_KEY, NODES_PREFIX
from pipemax_worker.errors import StoreNotSharedError
from pipemax_worker.runner.node_sharing import check_sharing, leave_mark
from pipemax_worker.runner.preparation import PreparedJob, prepare_job


def _prepared(job: JobFolder, changes: dict[str, Any]) -> PreparedJob:
    job.write_input(text_lines(1))
    return prepare_job(job.write(changes), {})


def test_one_node_and_buckets_prove_nothing(job: JobFolder, s3_bucket: str) -> None:
    changes = {"parallelism.nodes": 2, "output.uri": f"{s3_bucket}/out"}
    for prepared in (_prepared(job, {}), _prepared(job, changes)):
        store, said = open_store(prepared.places.output), list[str]()
        check_sharing(prepared, store, said.append, 0.0)
        assert leave_mark(prepared, store) == ""
        assert said == []
        assert store.list("") == []


def test_a_path_that_no_other_host_shows_itself_in_is_refused(job: JobFolder) -> None:
    prepared = _prepared(job, {"parallelism.nodes": 2, "output.shared": True})
    with pytest.raises(StoreNotSharedError, match="saw no other node's in 0 s"):
        check_sharing(prepared, LocalStore(job.output), list[str]().append, 0.0)


def test_workers_of_one_folder_read_one_mark(job: JobFolder) -> None:
    prepared = _prepared(job, {"parallelism.nodes": 2, "output.shared": True})
    store = LocalStore(job.output)
    mark = leave_mark(prepared, store)
    assert len(mark) == 32
    assert leave_mark(prepared, store) == mark
    store.delete(MARK_KEY)
    assert leave_mark(prepared, store) != mark, "another folder"


def test_nodes_of_a_cluster_prove_that_they_share_it_and_the_first_goes_on_alone(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(job, {"parallelism.nodes": 2, "output.shared": True})
    store, said = LocalStore(job.output), list[str]()
    monkeypatch.setenv("PIPEMAX_NODE_NAME", "node-a")
    check_sharing(prepared, store, said.append, 0.0)
    assert said[-1] == "nodes: node-a saw no other one in 0 s and starts alone"
    monkeypatch.setenv("PIPEMAX_NODE_NAME", "node-b")
    check_sharing(prepared, store, said.append, 0.0)
    assert said[-1] == f"nodes: node-b and node-a share {job.output}"
    assert store.list(NODES_PREFIX) == ["ledger/nodes/node-a", "ledger/nodes/node-b"]
