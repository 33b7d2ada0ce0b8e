"""`pipemax preflight`: every finding on a line, and the exit code of a run that could not start."""

from __future__ import annotations

import pytest
from kit.jobs import JobFolder
from pipemax_worker.cli.main import main
from pipemax_worker.preflight.facts import MachineFacts, MemoryFacts
from pipemax_worker.runner import preflight, preflight_report


def test_this_machine_can_run_it(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    nvme = {"hostPath": str(job.folder / "nvme"), "size": "1Mi"}
    changes = {"kvCache": {"host": "64Mi", "nvme": nvme}}
    assert main(["preflight", str(job.write(changes))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "InferenceJob reviews on this machine" in lines[0]
    checks = [line.split()[1].rstrip(":") for line in lines[1:]]
    assert {"memory", "nvme", "io_uring"} <= {*checks}
    assert not list((job.folder / "nvme").iterdir()), "nothing stays behind"
    assert not job.output.exists(), "nothing is started"


def test_it_cannot(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = MachineFacts(memory=MemoryFacts(limit=1 << 20))
    monkeypatch.setattr(preflight, "measure_machine", lambda *_: facts)
    assert main(["preflight", str(job.write())]) == 71
    assert "  fatal     memory: KV tiers take" in capsys.readouterr().out


def test_a_model_that_a_run_would_fetch_first(
    job: JobFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "someone/model: not on this machine yet"
    monkeypatch.setattr(preflight_report, "locate_model", lambda *_: (None, told))
    assert main(["preflight", str(job.write())]) == 66
    assert f"{told}; the preflight needs its config.json" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (job.folder / "file").touch()
    nvme = {"hostPath": str(job.folder / "file" / "nvme"), "size": "1Mi"}
    assert main(["preflight", str(job.write({"kvCache.nvme": nvme}))]) == 74
    assert "choose another folder" in capsys.readouterr().err
