"""A job's folder on a node, and what becomes of it when the job is over."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pipemax_worker.errors import KVTierError, OutputError
from pipemax_worker.runner.folder_sweep import SweepReport, sweep_job_folders
from pipemax_worker.runner.job_folder import (
    KV_NAME,
    MARKER_NAME,
    JobMarker,
    hand_over,
    prepare_job_folder,
    read_marker,
)
from pipemax_worker.runner.nvme_folder import nvme_run_folder

USER = os.getuid()
UID, OTHER = "0f7c9bd2-6d1e-4d51-9f8a-1f1a2b3c4d5e", "9d1b2c3d-0000-4d51-9f8a-1f1a2b3c4d5e"
JOB, OTHER_JOB = JobMarker(UID, "team-a", "reviews"), JobMarker(OTHER, "team-b", "other")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A disk on which two jobs have been, and others have files too."""
    (tmp_path / "lost+found").mkdir()
    for marker in (JOB, OTHER_JOB):
        prepare_job_folder(tmp_path, marker, USER)
        park(tmp_path, marker)
    return tmp_path


def park(root: Path, marker: JobMarker) -> Path:
    with nvme_run_folder(root / marker.uid / KV_NAME, True, "key") as folder:
        assert folder is not None
        (folder.path / "stage-0.kv").write_bytes(b"KV")
        folder.park_index.write_text("{}")
    return folder.path


@contextmanager
def living_worker(root: Path, uid: str = UID) -> Iterator[Path]:
    (folder,) = (root / uid / KV_NAME).iterdir()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        os.close(descriptor)


class TestPrepare:
    def test_the_worker_gets_the_inner_folder_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[tuple[Path, int, int]] = []

        def note(descriptor: int, user: int, group: int) -> None:
            given.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), user, group))

        monkeypatch.setattr(os, "fchown", note)
        prepare_job_folder(tmp_path, JOB, 10001)
        assert given == [(tmp_path / UID / KV_NAME, 10001, 10001)]
        assert (tmp_path / UID / KV_NAME).stat().st_mode & 0o777 == 0o700
        assert read_marker(tmp_path / UID) == JOB

    def test_again_keeps_what_is_parked(self, root: Path) -> None:
        prepare_job_folder(root, JOB, USER)
        assert list((root / UID / KV_NAME).glob("*/park.json"))
        assert sorted(path.name for path in (root / UID).iterdir()) == [KV_NAME, MARKER_NAME]

    @pytest.mark.parametrize("uid", ["", "..", "a/b", ".hidden", "x" * 64])
    def test_what_is_no_uid_is_refused(self, tmp_path: Path, uid: str) -> None:
        with pytest.raises(KVTierError, match="no UID"):
            prepare_job_folder(tmp_path, JobMarker(uid, "a", "b"), USER)
        assert not list(tmp_path.iterdir())

    def test_a_link_in_its_place_is_refused(self, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / UID).symlink_to(elsewhere)
        with pytest.raises(KVTierError, match=f"{UID} on the node"):
            prepare_job_folder(tmp_path, JOB, USER)
        assert not list(elsewhere.iterdir())

    def test_a_root_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(KVTierError, match="hostPath is a folder on a disk"):
            prepare_job_folder(tmp_path / "none", JOB, USER)


class TestHandOver:
    """``fchown`` is noted in place of done, and owners are made up: the tests may not be root."""

    @pytest.fixture
    def given(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        given: list[int] = []
        monkeypatch.setattr(os, "fchown", lambda _, user, group: given.append(user))
        return given

    @staticmethod
    def owned_by(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
        status = os.stat_result((0o40755, 1, 1, 2, user, user, 0, 0, 0, 0))
        monkeypatch.setattr(Path, "lstat", lambda path: status)

    def test_a_new_folder_of_roots(
        self, tmp_path: Path, given: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.owned_by(monkeypatch, 0)
        assert hand_over(tmp_path, 10001)
        assert given == [10001]

    def test_one_with_something_in_it_stays_as_it_is(
        self, tmp_path: Path, given: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "results").touch()
        self.owned_by(monkeypatch, 0)
        assert not hand_over(tmp_path, 10001)
        assert not given

    def test_somebody_elses_stays_as_it_is(
        self, tmp_path: Path, given: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.owned_by(monkeypatch, 1000)
        assert not hand_over(tmp_path, 10001)
        assert not given

    def test_one_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="cannot be handed to user 10001"):
            hand_over(tmp_path / "none", 10001)


class TestSweep:
    def test_the_named_job_goes_and_the_others_stay(self, root: Path) -> None:
        report = sweep_job_folders(root, [UID])
        assert report == SweepReport(removed=(UID,), left=(OTHER_JOB,))
        assert sorted(path.name for path in root.iterdir()) == sorted([OTHER, "lost+found"])
        assert list((root / OTHER / KV_NAME).glob("*/park.json")), "suspended, not ended"

    def test_without_a_name_it_only_looks(self, root: Path) -> None:
        assert sweep_job_folders(root, []) == SweepReport(left=(JOB, OTHER_JOB))

    def test_one_that_is_gone_is_gone(self, root: Path) -> None:
        sweep_job_folders(root, [UID])
        assert sweep_job_folders(root, [UID]).removed == (UID,)
        assert sweep_job_folders(root / "none", [UID]) == SweepReport(removed=(UID,))

    def test_a_worker_that_lives_keeps_it(self, root: Path) -> None:
        with living_worker(root) as folder:
            report = sweep_job_folders(root, [UID, OTHER])
            assert (report.busy, report.removed) == ((UID,), (OTHER,))
            assert (folder / "stage-0.kv").exists()
        assert sweep_job_folders(root, [UID]).removed == (UID,)

    def test_it_waits_for_a_worker_that_is_about_to_end(self, root: Path) -> None:
        naps: list[float] = []
        with living_worker(root):
            pass
        worker = living_worker(root)
        worker.__enter__()

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                worker.__exit__(None, None, None)

        report = sweep_job_folders(root, [UID], 30.0, clock=lambda: sum(naps), sleep=sleep)
        assert (report.removed, len(naps)) == ((UID,), 3)

    def test_it_does_not_wait_for_ever(self, root: Path) -> None:
        naps: list[float] = []
        with living_worker(root):
            report = sweep_job_folders(root, [UID], 5.0, clock=lambda: sum(naps), sleep=naps.append)
        assert report.busy == (UID,)
        assert sum(naps) == 5.0

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"uid": "x", "namespace": "", "name": ""}'])
    def test_a_folder_without_our_marker_is_not_ours(self, root: Path, content: bytes) -> None:
        (root / UID / MARKER_NAME).write_bytes(content)
        report = sweep_job_folders(root, [UID])
        assert "no folder of a job" in report.failed[UID]
        assert not report.removed
        assert list((root / UID / KV_NAME).glob("*/park.json"))

    def test_a_link_is_not_followed(self, root: Path) -> None:
        link = "11111111-0000-4d51-9f8a-1f1a2b3c4d5e"
        (root / link).symlink_to(root / UID)
        report = sweep_job_folders(root, [link])
        assert "no folder of a job" in report.failed[link]
        assert read_marker(root / UID) == JOB

    def test_a_link_of_the_workers_leads_nowhere(self, root: Path, tmp_path: Path) -> None:
        precious = root / "lost+found"
        (precious / "file").touch()
        (root / UID / KV_NAME / "link").symlink_to(precious)
        (root / UID / KV_NAME / "pipemax-kv-link").symlink_to(precious)
        assert sweep_job_folders(root, [UID]).removed == (UID,)
        assert (precious / "file").exists()

    @pytest.mark.parametrize("uid", ["..", "", "lost+found", "a/b"])
    def test_what_is_no_uid_is_not_touched(self, root: Path, uid: str) -> None:
        assert sweep_job_folders(root, [uid]).failed.keys() == {uid}
        assert len(list(root.iterdir())) == 3

    def test_what_else_root_keeps_there_stays(self, root: Path) -> None:
        (root / UID / "notes.txt").write_text("mine")
        report = sweep_job_folders(root, [UID])
        assert "holds what is not ours: notes.txt" in report.failed[UID]
        assert read_marker(root / UID) == JOB, "so that it is found again"

    def test_a_sweep_that_was_cut_off_is_done_again(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: Path) -> None:
            raise OSError(5, "Input/output error", str(path))

        monkeypatch.setattr(shutil, "rmtree", fail)
        report = sweep_job_folders(root, [UID])
        assert "Input/output error" in report.failed[UID]
        monkeypatch.undo()
        assert sweep_job_folders(root, [UID]).removed == (UID,)

    def test_a_pod_that_ended_before_the_marker(self, tmp_path: Path) -> None:
        (tmp_path / UID).mkdir()
        assert sweep_job_folders(tmp_path, [UID]).removed == (UID,)
        assert not list(tmp_path.iterdir())

    def test_a_pod_that_ended_while_it_wrote_the_marker(self, root: Path) -> None:
        (root / UID / f"{MARKER_NAME}.abc").touch()
        assert sweep_job_folders(root, [UID]).removed == (UID,)
