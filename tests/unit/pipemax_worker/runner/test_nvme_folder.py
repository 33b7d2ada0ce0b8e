"""Folders of NVMe files come and go with their runs, however those end."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from pipemax_worker.errors import KVTierError
from pipemax_worker.runner.nvme_folder import (
    FOLDER_PREFIX,
    PARKED_DAYS,
    RunFolder,
    derive_job_key,
    nvme_run_folder,
    remove_parked,
)

HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from pipemax_worker.runner.nvme_folder import nvme_run_folder\n"
    "with nvme_run_folder(Path(sys.argv[1]), True) as folder:\n"
    "    (folder.path / 'stage-0.kv').write_bytes(b'KV')\n"
    "    print(folder.path, flush=True)\n"
    "    sys.stdin.read()\n"
)


def start_holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another run, with a folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    os.utime(folder, (0, 0))  # so old that only its lock protects it
    return process, folder


def end(process: subprocess.Popen[str], kill: bool = False) -> None:
    with process:
        if kill:
            process.kill()


def test_none_is_made_where_none_is_wanted(tmp_path: Path) -> None:
    with nvme_run_folder(tmp_path, False) as folder:
        assert folder is None
    assert not list(tmp_path.iterdir())


def test_it_is_made_with_its_parents_and_removed_with_what_is_in_it(tmp_path: Path) -> None:
    with nvme_run_folder(tmp_path / "nvme" / "pipemax", True) as folder:
        assert folder is not None
        (folder.path / "stage-0.kv").write_bytes(b"KV")
    assert not list((tmp_path / "nvme" / "pipemax").iterdir())


def test_it_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), nvme_run_folder(tmp_path, True):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_an_empty_dir_lies_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with nvme_run_folder(None, True) as folder:
        assert folder is not None
        assert folder.path.parent == tmp_path
        assert not folder.is_lasting


def test_two_runs_have_two_folders(tmp_path: Path) -> None:
    with nvme_run_folder(tmp_path, True) as one, nvme_run_folder(tmp_path, True) as other:
        assert one is not None
        assert other is not None
        assert one.path != other.path
        assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(KVTierError, match=r"kvCache\.nvme: .*file/pipemax: cannot be written"),
        nvme_run_folder(tmp_path / "file" / "pipemax", True),
    ):
        pytest.fail("entered")


def test_what_a_killed_run_left_is_swept_and_a_living_one_is_not(tmp_path: Path) -> None:
    dead, left = start_holder(tmp_path)
    end(dead, kill=True)
    os.utime(left, (0, 0))
    alive, in_use = start_holder(tmp_path)
    assert (left / "stage-0.kv").exists() is False, "the next run sweeps"
    with nvme_run_folder(tmp_path, True):
        assert (in_use / "stage-0.kv").exists()
    end(alive)
    assert not list(tmp_path.iterdir())


def test_a_young_folder_may_be_about_to_be_locked(tmp_path: Path) -> None:
    young = tmp_path / f"{FOLDER_PREFIX}young"
    young.mkdir()
    with nvme_run_folder(tmp_path, True):
        assert young.exists()


def test_files_and_links_of_that_name_stay(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (tmp_path / f"{FOLDER_PREFIX}file").touch()
    (tmp_path / f"{FOLDER_PREFIX}link").symlink_to(target)
    for path in (target, tmp_path / f"{FOLDER_PREFIX}file"):
        os.utime(path, (0, 0))
    with nvme_run_folder(tmp_path, True):
        pass
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"precious", f"{FOLDER_PREFIX}file", f"{FOLDER_PREFIX}link"}


JOB, OTHER_JOB = derive_job_key("/data/out"), derive_job_key("/data/other")


def leave_parked(parent: Path, job_key: str = JOB, age_days: float = 0.0) -> Path:
    """A run of the job was stopped, so many days ago, and has parked."""
    with nvme_run_folder(parent, True, job_key) as folder:
        assert folder is not None
        folder.park_index.write_text("{}")
    seconds = time.time() - age_days * 86400
    for path in (folder.park_index, folder.path):
        os.utime(path, (seconds, seconds))
    return folder.path


def test_jobs_have_keys_of_their_own() -> None:
    assert JOB != OTHER_JOB
    assert derive_job_key("/data/out") == JOB


class TestParked:
    @staticmethod
    def next_run(parent: Path, job_key: str = JOB) -> Path:
        with nvme_run_folder(parent, True, job_key) as folder:
            assert isinstance(folder, RunFolder)
            assert folder.is_lasting
            folder.park_index.unlink(missing_ok=True)
        return folder.path

    def test_the_next_run_of_the_job_takes_it_up_and_removes_it(self, tmp_path: Path) -> None:
        left = leave_parked(tmp_path, age_days=1)
        assert self.next_run(tmp_path) == left
        assert not list(tmp_path.iterdir())

    def test_a_run_that_does_not_get_so_far_leaves_it(self, tmp_path: Path) -> None:
        left = leave_parked(tmp_path)
        with pytest.raises(ZeroDivisionError), nvme_run_folder(tmp_path, True, JOB):
            raise ZeroDivisionError
        assert (left / "park.json").exists()

    def test_the_latest_of_several(self, tmp_path: Path) -> None:
        old = leave_parked(tmp_path)
        (old / "park.json").rename(tmp_path / "aside")
        new = leave_parked(tmp_path)
        (tmp_path / "aside").rename(old / "park.json")
        os.utime(old / "park.json", (1e9, time.time() - 3600))
        assert self.next_run(tmp_path) == new
        assert old.exists(), "another worker of the job on this node may want it"

    def test_it_is_left_to_its_own_job(self, tmp_path: Path) -> None:
        left = leave_parked(tmp_path, age_days=PARKED_DAYS - 1)
        assert self.next_run(tmp_path, OTHER_JOB) != left
        assert (left / "park.json").exists()

    def test_after_a_week_it_is_swept(self, tmp_path: Path) -> None:
        left = leave_parked(tmp_path, age_days=PARKED_DAYS + 1)
        self.next_run(tmp_path, OTHER_JOB)
        assert not left.exists()

    def test_a_job_that_was_suspended_for_longer_finds_its_own(self, tmp_path: Path) -> None:
        left = leave_parked(tmp_path, age_days=PARKED_DAYS + 30)
        assert self.next_run(tmp_path) == left

    def test_two_workers_of_a_job_take_up_one_each(self, tmp_path: Path) -> None:
        left = leave_parked(tmp_path)
        with (
            nvme_run_folder(tmp_path, True, JOB) as one,
            nvme_run_folder(tmp_path, True, JOB) as other,
        ):
            assert one is not None
            assert other is not None
            assert one.path == left
            assert other.path != left
            one.park_index.unlink()
        assert not list(tmp_path.iterdir())

    def test_a_finished_job_leaves_nothing(self, tmp_path: Path) -> None:
        leave_parked(tmp_path)
        others = leave_parked(tmp_path, OTHER_JOB)
        with nvme_run_folder(tmp_path, True, JOB) as folder:
            assert folder is not None
            folder.park_index.write_text("{}")
            remove_parked(tmp_path, JOB)
            assert folder.path.exists(), "it lives"
        remove_parked(tmp_path, JOB)
        remove_parked(None, JOB)
        assert list(tmp_path.iterdir()) == [others]

    def test_an_empty_dir_takes_nothing_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = leave_parked(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with nvme_run_folder(None, True, JOB) as folder:
            assert folder is not None
            assert folder.path != left
