"""Folders of jobs that are over go from every node's disk; those of jobs that live stay."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kit.folder_cluster import ROOT, SETTINGS, FolderCluster
from kit.turns import settle, until
from pipemax_operator.api_server import ForbiddenError
from pipemax_operator.nvme_sweeper import CHECK_SECONDS, NvmeSweeper
from pipemax_operator.sweep_metrics import RESULTS
from pipemax_operator.sweeps import FORGET_AFTER

A, B = "aaaaaaaa-6d1e-4d51-9f8a-1f1a2b3c4d5e", "bbbbbbbb-6d1e-4d51-9f8a-1f1a2b3c4d5e"


@pytest.fixture
def cluster(tmp_path: Path) -> FolderCluster:
    return FolderCluster(tmp_path, "node-1", "node-2")


def sweeper_of(cluster: FolderCluster) -> NvmeSweeper:
    return NvmeSweeper(cluster, SETTINGS, cluster.now, cluster.monotonic, cluster.metrics)


def exported(cluster: FolderCluster, name: str, **labels: str) -> float | None:
    return cluster.registry.get_sample_value(f"pipemax_nvme_{name}", labels)


async def tell(cluster: FolderCluster, sweeper: NvmeSweeper) -> None:
    """What the reconciler does when it looks at each job."""
    for uid, document in cluster.jobs.items():
        await sweeper.note(document, cluster.pods[uid])


async def turns(cluster: FolderCluster, sweeper: NvmeSweeper, count: int = 4) -> float:
    pause = 0.0
    for _ in range(count):
        pause = await sweeper.turn()
        cluster.run_sweeps()
        cluster.seconds += pause
    return pause


async def ended_job(cluster: FolderCluster, *nodes: str) -> NvmeSweeper:
    """A sweeper that knows of job A on these nodes, and that it is over."""
    sweeper = sweeper_of(cluster)
    cluster.add_job(A, *nodes)
    await tell(cluster, sweeper)
    cluster.finish(A)
    await tell(cluster, sweeper)
    return sweeper


def scene(play: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(play(), 120))


@pytest.mark.parametrize("end", ["Complete", "Failed", "deleted"])
def test_at_a_jobs_end_its_folders_go_from_every_node(cluster: FolderCluster, end: str) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1", "node-2")
        cluster.add_job(B, "node-1")
        await tell(cluster, sweeper)
        if end == "deleted":
            cluster.delete(A)
            sweeper.suspect("team-a", "reviews")
        else:
            cluster.finish(A, end)
            await tell(cluster, sweeper)
        await turns(cluster, sweeper)

    scene(play)
    assert cluster.folders("node-1") == {B}, "the other job may go on"
    assert cluster.folders("node-2") == set()
    assert [*cluster.records] == [f"pipemax-nvme-{B}"]
    assert not cluster.sweep_jobs


def test_a_suspended_job_keeps_what_it_has_parked(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1")["spec"]["suspend"] = True
        cluster.add_job(B, "node-1")
        await tell(cluster, sweeper)
        cluster.pods[A].clear()  # they are gone, the folder is not
        cluster.delete(B)
        sweeper.suspect("team-a", "reviews")
        await turns(cluster, sweeper)
        cluster.seconds += 40 * CHECK_SECONDS
        await turns(cluster, sweeper)

    scene(play)
    assert cluster.folders("node-1") == {A}


def test_a_job_is_recorded_before_it_has_a_pod(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A)
        await tell(cluster, sweeper)
        await tell(cluster, sweeper)

    scene(play)
    assert [*cluster.records] == [f"pipemax-nvme-{A}"]
    assert cluster.calls.count("apply ConfigMap") == 1, "what is known is not written again"


def test_a_folder_that_jobs_may_not_name_is_not_swept_for_them(cluster: FolderCluster) -> None:
    """Whoever makes a pod in such a job's name lets no root in there. A job that was recorded
    before stays so."""
    strict = replace(SETTINGS, allowed_host_paths=("/elsewhere",))

    async def play() -> None:
        cluster.add_job(B, "node-1")
        sweeper = NvmeSweeper(cluster, strict, cluster.now, cluster.monotonic, cluster.metrics)
        await tell(cluster, sweeper)
        assert not cluster.records
        await tell(cluster, sweeper_of(cluster))
        cluster.add_job(A, "node-2")
        successor = NvmeSweeper(cluster, strict, cluster.now, cluster.monotonic, cluster.metrics)
        await tell(cluster, successor)
        assert [*cluster.records] == [f"pipemax-nvme-{B}"]
        cluster.finish(B)
        await tell(cluster, successor)
        await turns(cluster, successor)

    scene(play)
    assert not cluster.records, "it was swept at its end"


def test_jobs_without_a_folder_on_nodes_cost_nothing(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        for nvme in (None, {"emptyDir": {}, "size": "1Gi"}):
            document = cluster.add_job(A)
            document["spec"]["kvCache"] = {"nvme": nvme} if nvme else {}
            await tell(cluster, sweeper)

    scene(play)
    assert not cluster.calls


def test_a_node_that_was_lost_is_swept_when_it_returns(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1", "node-2")
        await tell(cluster, sweeper)
        cluster.down = {"node-2"}
        cluster.delete(A)
        sweeper.suspect("team-a", "reviews")
        pause = await turns(cluster, sweeper)
        assert (cluster.folders("node-1"), cluster.folders("node-2")) == (set(), {A})
        await turns(cluster, sweeper, 200)
        assert len(cluster.sweep_jobs) == 1, "one waits there, and no more are made"
        assert (await sweeper.turn()) > pause, "it is asked for seldom then"
        cluster.down = set()
        cluster.run_sweeps()
        await sweeper.turn()

    scene(play)
    assert cluster.folders("node-2") == set()
    assert not cluster.records


def test_a_node_that_never_returns_is_forgotten(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1")
        await tell(cluster, sweeper)
        cluster.down = {"node-1"}
        cluster.delete(A)
        sweeper.suspect("team-a", "reviews")
        await turns(cluster, sweeper)
        cluster.seconds += FORGET_AFTER.total_seconds()
        await turns(cluster, sweeper)

    scene(play)
    assert not cluster.records


def test_a_worker_that_still_lives_is_waited_for(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1")
        await tell(cluster, sweeper)
        run_folder = cluster.nodes["node-1"] / A / "kv" / "pipemax-kv-x"
        run_folder.mkdir()
        lock = os.open(run_folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster.delete(A)
        sweeper.suspect("team-a", "reviews")
        await turns(cluster, sweeper, 6)
        assert run_folder.exists()
        os.close(lock)
        await turns(cluster, sweeper, 6)

    scene(play)
    assert cluster.folders("node-1") == set()


def test_another_operator_goes_on_where_one_was_killed(cluster: FolderCluster) -> None:
    """After each step of one: with the records and sweeps that lie in the cluster alone."""

    async def play() -> None:
        cluster.add_job(A, "node-1", "node-2")
        await tell(cluster, sweeper_of(cluster))
        cluster.delete(A)  # nobody sees it
        for _ in range(8):
            await sweeper_of(cluster).turn()
            cluster.run_sweeps()

    scene(play)
    assert cluster.folders("node-1") | cluster.folders("node-2") == set()
    assert not cluster.records
    assert not cluster.sweep_jobs


def test_an_event_that_was_missed_is_made_up_for(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1")
        await tell(cluster, sweeper)
        await turns(cluster, sweeper)
        cluster.delete(A)
        await turns(cluster, sweeper)
        assert cluster.folders("node-1") == {A}
        cluster.seconds += CHECK_SECONDS
        await turns(cluster, sweeper)

    scene(play)
    assert cluster.folders("node-1") == set()


def test_what_nobody_has_recorded_is_found_by_the_next_sweep(cluster: FolderCluster) -> None:
    """Its pod came and went while no operator was there. Of a job that lives it stays."""

    async def play() -> None:
        for uid in (A, B):
            cluster.add_job(uid, "node-1")
        cluster.delete(A)
        sweeper = sweeper_of(cluster)
        last = "cccccccc-6d1e-4d51-9f8a-1f1a2b3c4d5e"
        job = cluster.add_job(last, "node-1")
        await sweeper.note(job, cluster.pods[last])
        cluster.finish(last)
        await sweeper.note(job, cluster.pods[last])
        await turns(cluster, sweeper, 6)

    scene(play)
    assert cluster.folders("node-1") == {B}
    assert not cluster.records


def test_disks_in_use_are_looked_at_now_and_then(cluster: FolderCluster) -> None:
    async def play() -> None:
        cluster.add_job(A, "node-1")
        cluster.delete(A)
        cluster.add_job(B, "node-1")
        sweeper = sweeper_of(cluster)
        await tell(cluster, sweeper)
        await turns(cluster, sweeper, 2)
        assert not cluster.sweep_jobs
        for _ in range(8):
            cluster.seconds += 3600
            await turns(cluster, sweeper)

    scene(play)
    assert cluster.folders("node-1") == {B}


def test_folders_of_namespaces_that_we_may_not_see_are_left_alone(cluster: FolderCluster) -> None:
    async def play() -> None:
        cluster.add_job(A, "node-1", namespace="theirs")
        cluster.delete(A)
        cluster.forbidden = {"theirs"}
        sweeper = sweeper_of(cluster)
        cluster.add_job(B, "node-1")
        await tell(cluster, sweeper)
        cluster.finish(B)
        await tell(cluster, sweeper)
        await turns(cluster, sweeper, 6)

    scene(play)
    assert cluster.folders("node-1") == {A}
    assert not cluster.records


def test_a_pod_that_lingers_after_the_end_is_swept_too(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = await ended_job(cluster, "node-1")
        await turns(cluster, sweeper)
        cluster.add_pod(A, "node-2", "Running")
        await tell(cluster, sweeper)
        cluster.pods[A].clear()
        await turns(cluster, sweeper)

    scene(play)
    assert cluster.folders("node-2") == set()
    assert not cluster.records


def test_a_sweep_that_fails_is_tried_again_after_a_while(
    cluster: FolderCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        sweeper = await ended_job(cluster, "node-1")
        await sweeper.turn()
        cluster.exit_code = 1
        cluster.end_sweep(*cluster.sweep_jobs, "Traceback ...")
        assert (await sweeper.turn()) >= 30
        assert not cluster.sweep_jobs
        cluster.exit_code = 0
        cluster.seconds += 300
        await turns(cluster, sweeper)

    scene(play)
    assert f"of {ROOT} on node-1 failed" in caplog.text
    assert exported(cluster, "sweeps_total", result="failed") == 1
    assert exported(cluster, "sweeps_total", result="removed") == 1
    assert exported(cluster, "folders_waiting") == 0
    assert cluster.folders("node-1") == set()


def test_what_cannot_be_removed_is_named_and_tried_again(
    cluster: FolderCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1")
        (cluster.nodes["node-1"] / A / "notes.txt").touch()
        await tell(cluster, sweeper)
        cluster.finish(A)
        await tell(cluster, sweeper)
        await turns(cluster, sweeper)

    scene(play)
    assert f"{ROOT}/{A} on node-1 stays" in caplog.text
    assert "notes.txt" in caplog.text
    assert (exported(cluster, "sweeps_total", result="kept") or 0) >= 1
    assert exported(cluster, "folders_waiting") == 1
    assert cluster.folders("node-1") == {A}
    assert len(cluster.records) == 1


def test_a_sweep_that_a_queue_holds_is_told_of_once(
    cluster: FolderCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Kueue manages every Job, one without a queue is suspended for ever."""

    async def play() -> None:
        sweeper = await ended_job(cluster, "node-1")
        await sweeper.turn()
        (document,) = cluster.sweep_jobs.values()
        document["spec"]["suspend"] = True
        for _ in range(3):
            await sweeper.turn()
        assert exported(cluster, "sweeps_held") == exported(cluster, "folders_waiting") == 1
        document["spec"]["suspend"] = False
        await turns(cluster, sweeper)

    scene(play)
    (told,) = [text for text in caplog.messages if "suspended" in text]
    assert "exempt namespace pipemax-system in its managedJobsNamespaceSelector" in told
    assert "nvmeSweeps.queueName" in told
    assert exported(cluster, "sweeps_held") == exported(cluster, "folders_waiting") == 0
    assert cluster.folders("node-1") == set()


def test_folders_that_wait_for_their_node_are_told_of(
    cluster: FolderCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1", "node-2")
        cluster.down.add("node-2")
        await tell(cluster, sweeper)
        cluster.finish(A)
        await tell(cluster, sweeper)
        await turns(cluster, sweeper)
        assert exported(cluster, "folders_waiting") == 1
        cluster.seconds += CHECK_SECONDS + 1
        with caplog.at_level("INFO", "pipemax_operator.nvme_sweeper"):
            await sweeper.turn()
        task = asyncio.create_task(sweeper.run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    scene(play)
    assert "folders of ended jobs that wait on nodes' disks: 1" in caplog.text
    assert exported(cluster, "folders_waiting") == 0, "another operator speaks of them now"
    assert {exported(cluster, "sweeps_total", result=result) for result in RESULTS} == {0, 1}


@pytest.mark.parametrize("error", [ForbiddenError("no right"), TimeoutError("away")])
def test_a_right_that_lacks_holds_no_job_up(
    cluster: FolderCluster, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1")
        cluster.fails = error
        await tell(cluster, sweeper)
        task = asyncio.create_task(sweeper.run())
        await until(lambda: f"are not swept: {error}" in caplog.text)
        await settle()
        assert not task.done()
        cluster.fails = None
        await tell(cluster, sweeper)
        task.cancel()

    scene(play)
    assert f"team-a/reviews: its NVMe folder is not recorded, and may be left behind: {error}" in (
        caplog.text
    )
    assert f"are not swept: {error}" in caplog.text
    assert len(cluster.records) == 1


def test_the_loop_wakes_for_a_job_that_ends(cluster: FolderCluster) -> None:
    async def play() -> None:
        sweeper = sweeper_of(cluster)
        cluster.add_job(A, "node-1")
        await tell(cluster, sweeper)
        task = asyncio.create_task(sweeper.run())
        await settle()
        cluster.delete(A)
        sweeper.suspect("team-a", "reviews")
        await until(lambda: cluster.sweep_jobs)
        task.cancel()

    scene(play)
