"""Folders of NVMe files come and go with their runs, however those end."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pipemax_worker.errors import KVTierError
from pipemax_worker.runner.nvme_folder import FOLDER_PREFIX, nvme_run_folder

HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from pipemax_worker.runner.nvme_folder import nvme_run_folder\n"
    "with nvme_run_folder(Path(sys.argv[1]), True) as folder:\n"
    "    (folder / 'stage-0.kv').write_bytes(b'KV')\n"
    "    print(folder, flush=True)\n"
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
        (folder / "stage-0.kv").write_bytes(b"KV")
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
        assert folder.parent == tmp_path


def test_two_runs_have_two_folders(tmp_path: Path) -> None:
    with nvme_run_folder(tmp_path, True) as one, nvme_run_folder(tmp_path, True) as other:
        assert one != other
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
