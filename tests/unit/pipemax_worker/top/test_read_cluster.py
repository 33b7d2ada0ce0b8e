"""One look at a cluster through a kubectl that is a real program."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.fake_kubectl import FakeKubectl, job_document, pod_document
from pipemax_worker.errors import UnreachableError
from pipemax_worker.top import kubectl as kubectl_module
from pipemax_worker.top.kubectl import Kubectl
from pipemax_worker.top.read_cluster import MAX_WORKERS, read_cluster

JOBS, PODS = "inferencejobs.pipemax.dev", "pods"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    fake = FakeKubectl(tmp_path / "bin", monkeypatch)
    fake.answer(JOBS, job_document("reviews"), job_document("done", phase="Complete"))
    fake.answer(PODS, pod_document("reviews-0"), pod_document("reviews-1"))
    fake.answer_page("reviews-0")
    fake.answer_page("reviews-1", num_done=7)
    return fake


def test_jobs_by_their_status_and_workers_by_their_pages(fake: FakeKubectl) -> None:
    picture = read_cluster(Kubectl(["--context=lab"]), None)
    assert [job.name for job in picture.jobs] == ["reviews", "done"]
    assert picture.pages["a/reviews-1"].requests.done == 7
    assert picture.notes == ()
    calls = fake.calls()
    assert calls[0] == "--context=lab get inferencejobs.pipemax.dev --all-namespaces -o json"
    assert "-l pipemax.dev/inferencejob" in calls[1]
    assert len(calls) == 4


def test_one_namespace(fake: FakeKubectl) -> None:
    read_cluster(Kubectl(), "a")
    assert fake.calls()[0] == "get inferencejobs.pipemax.dev --namespace a -o json"


def test_where_nothing_runs_nobody_is_asked(fake: FakeKubectl) -> None:
    fake.answer(JOBS, job_document("done", phase="Complete"))
    assert read_cluster(Kubectl(), None).pods == ()
    assert len(fake.calls()) == 1


def test_a_worker_that_may_not_be_asked_leaves_the_status(fake: FakeKubectl) -> None:
    words = 'Error from server (Forbidden): pods "reviews-0" is forbidden'
    fake.fail("reviews-0", f"E1123 memcache.go\n{words}\n")
    picture = read_cluster(Kubectl(), None)
    assert set(picture.pages) == {"a/reviews-1"}
    assert picture.notes[0].startswith("1 of 2 workers do not answer: ")
    assert picture.notes[0].endswith(words)


def test_pods_that_may_not_be_listed_leave_the_status(fake: FakeKubectl) -> None:
    fake.fail(PODS, "Error from server (Forbidden): pods is forbidden")
    picture = read_cluster(Kubectl(), None)
    assert len(picture.jobs) == 2
    assert "pods is forbidden" in picture.notes[0]


def test_of_many_workers_some_are_asked(fake: FakeKubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipemax_worker.top.read_cluster.MAX_WORKERS", 1)
    picture = read_cluster(Kubectl(), None)
    assert set(picture.pages) == {"a/reviews-0"}
    assert "1 of 2 workers were asked" in picture.notes[0]
    assert MAX_WORKERS > 1


def test_without_kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreachableError, match="through kubectl, which is not on the PATH"):
        read_cluster(Kubectl(), None)


def test_a_cluster_without_pipemax_and_one_that_is_silent(
    fake: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.fail(JOBS, 'error: the server doesn\'t have a resource type "inferencejobs"\n')
    with pytest.raises(UnreachableError, match="doesn't have a resource type"):
        read_cluster(Kubectl(), None)
    (fake.folder / "slow").write_text("#!/bin/sh\nexec sleep 60\n")
    (fake.folder / "slow").chmod(0o755)
    with monkeypatch.context() as impatient:
        impatient.setattr(kubectl_module, "TIMEOUT_SECONDS", 0.2)
        with pytest.raises(UnreachableError, match="has not answered for 0 s"):
            Kubectl(program="slow").run("get")
    (fake.folder / "odd").write_text("#!/bin/sh\necho no json\n")
    (fake.folder / "odd").chmod(0o755)
    with pytest.raises(UnreachableError, match="no JSON"):
        Kubectl(program="odd").get("pods")
    (fake.folder / "mute").write_text("#!/bin/sh\nexit 3\n")
    (fake.folder / "mute").chmod(0o755)
    with pytest.raises(UnreachableError, match="exit code 3"):
        Kubectl(program="mute").run("get")
