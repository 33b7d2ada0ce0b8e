"""Disks that are full: a clear error, nothing lost, and once there is room the job goes on."""

from __future__ import annotations

import functools

import pytest
from kit.jobs import JobFolder, answer_text, text_lines
from kit.small_disk import DISK_BYTES, small_disk
from pipemax_worker.pipeline.executor import PipelineExecutor
from pipemax_worker.runner import session

NUM_FILES = 8
LINES_PER_FILE = 6
ROOM_BYTES = 64 << 10
"""For the ledger and the records of some ranges, not of all."""


@pytest.mark.parametrize("room_bytes", [ROOM_BYTES, 1 << 12])
def test_a_full_disk_for_the_output(
    job: JobFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    room_bytes: int,
) -> None:
    """In the middle of the job, and before its first record."""
    for number in range(NUM_FILES):
        job.write_input(text_lines(LINES_PER_FILE, f"{number}-"), f"{number}.jsonl")
    with small_disk(job.folder / "disk", monkeypatch) as disk:
        job.write({"output": {"uri": "disk/out"}, "engine.maxNumRequests": 4})
        output = JobFolder(disk.folder, job.model_folder)
        disk.fill(room_bytes)
        capsys.readouterr()
        assert job.run("--quiet") == 74
        said = capsys.readouterr().err
        assert "disk is full: free space and run again, finished requests are kept" in said
        kept = {name: answer_text(record) for name, record in output.by_id().items()}
        assert bool(kept) == (room_bytes == ROOM_BYTES)
        assert len(kept) < NUM_FILES * LINES_PER_FILE

        assert job.run("--quiet") == 74, "as long as it is full"
        disk.free()
        assert job.run("--quiet") == 0
        found = {name: answer_text(record) for name, record in output.by_id().items()}
        assert len(found) == NUM_FILES * LINES_PER_FILE
        assert kept.items() <= found.items(), "what was there has stayed"
        assert (output.output / "manifest.json").exists()


def test_a_full_disk_for_the_nvme_tier_is_found_at_the_start(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(6))
    with small_disk(job.folder / "disk", monkeypatch) as disk:
        if not disk.is_mounted:
            entry_point = "kit.poisoned_stage:main_with_small_files"
            executor = functools.partial(PipelineExecutor, entry_point=entry_point)
            monkeypatch.setattr(session, "PipelineExecutor", executor)
        nvme = {"hostPath": str(disk.folder / "nvme"), "size": str(2 * DISK_BYTES)}
        job.write({"kvCache.nvme": nvme, "parallelism.stagesPerNode": 2})
        assert job.run("--quiet") == (71 if disk.is_mounted else 74), "preflight, or the stages"
        said = capsys.readouterr().err
        assert ("nvme: " if disk.is_mounted else "NVMe tier:") in said
        assert "free the disk or lower kvCache.nvme.size" in said
        assert not job.output.joinpath("ledger").exists()
        assert not list(disk.folder.rglob("*.kv")), "what was allocated in vain is freed"

        job.write({"kvCache.nvme": nvme | {"size": "96Ki"}, "parallelism.stagesPerNode": 2})
        assert job.run("--quiet") == 0
        assert len(job.by_id()) == 6
