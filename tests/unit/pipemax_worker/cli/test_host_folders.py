"""`pipemax host-folders`: the containers' own commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pipemax_worker.cli.host_folders import encode_report
from pipemax_worker.cli.main import main
from pipemax_worker.runner.folder_sweep import SweepReport
from pipemax_worker.runner.job_folder import JobMarker

UID = "0f7c9bd2-6d1e-4d51-9f8a-1f1a2b3c4d5e"
JOB = ("--uid", UID, "--namespace", "team-a", "--name", "reviews")


def prepare(root: Path, *more: str) -> int:
    user = str(os.getuid())
    return main(["host-folders", "prepare", "--user", user, "--nvme", str(root), *JOB, *more])


def test_prepare_then_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvme, log = tmp_path / "nvme", tmp_path / "termination-log"
    nvme.mkdir()
    monkeypatch.setenv("PIPEMAX_TERMINATION_LOG", str(log))
    assert prepare(nvme) == 0
    assert f"{nvme}/{UID}: ready for user" in capsys.readouterr().out
    assert main(["host-folders", "sweep", str(nvme)]) == 0
    left = [{"uid": UID, "namespace": "team-a", "name": "reviews"}]
    assert json.loads(capsys.readouterr().out)["left"] == left
    assert json.loads(log.read_bytes()) == {"left": left}
    assert main(["host-folders", "sweep", str(nvme), "--uid", UID, "--wait-seconds", "1"]) == 0
    assert json.loads(log.read_bytes()) == {"removed": [UID]}
    assert not list(nvme.iterdir())


def test_a_folder_that_cannot_be_made_is_told_to_whoever_reads_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv("PIPEMAX_TERMINATION_LOG", str(log))
    assert prepare(tmp_path / "none") == os.EX_IOERR
    assert json.loads(log.read_bytes())["reason"] == "KVTierFailed"


def test_a_folder_with_files_is_handed_to_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").touch()
    assert main(["host-folders", "prepare", "--user", "1", "--hand-over", str(tmp_path)]) == 0
    assert "given" not in capsys.readouterr().out


def test_a_long_report_fits_into_a_termination_message() -> None:
    left = tuple(JobMarker(f"{number:036d}", "n" * 63, "j" * 52) for number in range(200))
    report = SweepReport(removed=("a",), busy=("b",), failed={"c": "x" * 9000}, left=left)
    said = json.loads(encoded := encode_report(report, 4096))
    assert len(encoded) <= 4096
    assert (said["removed"], said["busy"]) == (["a"], ["b"])
    assert len(said["left"]) > 5
