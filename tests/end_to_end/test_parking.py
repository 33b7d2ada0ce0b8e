"""A run that is stopped parks what is unfinished on NVMe, and the next one goes on there."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kit.jobs import JobFolder, answer_text, text_lines
from kit.processes import RunningJob
from kit.stopped_jobs import Run, disk_to_fill, run_and_stop, use_stages
from pipemax_worker.runner.nvme_folder import sweep_stale_folders

Capture = pytest.CaptureFixture[str]

NUM_FILES = 3
LINES_PER_FILE = 8
NUM_LINES = NUM_FILES * LINES_PER_FILE
SETTINGS = {
    "sampling": {"temperature": 0},
    "parallelism.stagesPerNode": 2,
    "engine.maxNumRequests": 4,
    "engine.lookAhead": 16,
}

Answers = dict[str, str]


def write_inputs(job: JobFolder) -> None:
    """Answers of different lengths: at any moment some requests are in the middle of theirs."""
    for number in range(NUM_FILES):
        lines = [
            text_lines(index + 1, f"{number}-", max_tokens=30 + 17 * index % 40)[index]
            for index in range(LINES_PER_FILE)
        ]
        job.write_input(lines, f"{number}.jsonl")


def write_job(job: JobFolder, changes: Mapping[str, Any] | None = None) -> None:
    nvme = {"hostPath": str(nvme_of(job)), "size": "8Mi"}
    job.write(SETTINGS | {"kvCache.nvme": nvme} | dict(changes or {}))


def nvme_of(job: JobFolder) -> Path:
    return job.folder / "nvme"


def answers_of(job: JobFolder) -> Answers:
    return {custom_id: answer_text(record) for custom_id, record in job.by_id().items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Answers:
    job = JobFolder(tmp_path_factory.mktemp("unstopped"), model_folder)
    write_inputs(job)
    job.write(SETTINGS | {"engine.maxNumRequests": 16})
    assert job.run("--quiet") == 0
    return answers_of(job)


@pytest.fixture
def parking_job(job: JobFolder) -> JobFolder:
    write_inputs(job)
    write_job(job)
    return job


def park_folder(job: JobFolder) -> Path:
    (folder,) = nvme_of(job).iterdir()
    return folder


def park_index(job: JobFolder) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((park_folder(job) / "park.json").read_bytes())["index"]
    return index


def finish(job: JobFolder, capsys: Capture, expected: Answers) -> Run:
    """The next run, to the end: all answers are right, and nothing is left on the disk."""
    run = Run(job, capsys)
    assert run.exit_code == 0, run.said
    assert answers_of(job) == expected
    assert not list(nvme_of(job).iterdir())
    return run


def test_the_next_run_goes_on_without_computing_anything_twice(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    stopped = run_and_stop(parking_job, capsys, random.randint(3, 16))
    assert stopped.exit_code == 75, stopped.said
    assert stopped.num_parked_tokens > 0
    assert stopped.num_parked_outputs > 0
    names = {path.name for path in park_folder(parking_job).iterdir()}
    files = {f"stage-{stage}.{kind}" for stage in range(2) for kind in ("kv", "index")}
    assert names == {"park.json", *files}
    assert len(parking_job.records()) < NUM_LINES

    finished = finish(parking_job, capsys, expected)
    assert f"the KV of {stopped.num_parked_tokens} tokens is taken up" in finished.said
    assert finished.num_restored == stopped.num_parked_tokens
    assert finished.num_recomputed == 0


def test_stopped_again_and_again(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    """Each time as soon as a record is there: some parked requests are still parked then."""
    for _ in range(4):
        stopped = run_and_stop(parking_job, capsys, len(parking_job.records()) + 1)
        assert stopped.exit_code == 75
        assert stopped.num_recomputed == 0
    finished = finish(parking_job, capsys, expected)
    assert finished.num_restored == stopped.num_parked_tokens > 0
    assert finished.num_recomputed == 0


def test_several_choices_of_a_line(
    parking_job: JobFolder, capsys: Capture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sampled texts as well: the random number depends on the position, not on the run."""
    lines = text_lines(6, n=3, temperature=0.9, logprobs=2)
    whole = JobFolder(tmp_path_factory.mktemp("whole"), parking_job.model_folder)
    for path in parking_job.folder.glob("*.jsonl"):
        path.unlink()
    for job in (whole, parking_job):
        job.write_input(lines)
    write_job(whole)
    assert whole.run("--quiet") == 0
    stopped = run_and_stop(parking_job, capsys, 3)
    assert stopped.num_parked_outputs > 0
    finished = Run(parking_job, capsys)
    assert finished.num_restored == stopped.num_parked_tokens
    for custom_id, record in whole.by_id().items():
        found = parking_job.by_id()[custom_id]["response"]["body"]["choices"]
        assert found == record["response"]["body"]["choices"]


def test_ctrl_c_in_a_process_of_its_own(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    with RunningJob(parking_job, hold="requests", at=5) as run:
        run.wait_for_requests(5)
        for process_id in run.process_ids():
            os.kill(process_id, signal.SIGINT)  # as a terminal does it
        assert run.end() == 75
        run.wait_until_gone()
    assert "parked" in "".join(run.said)
    assert finish(parking_job, capsys, expected).num_restored > 0


def test_a_stop_while_the_next_run_loads_leaves_all_as_it_was(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    stopped = run_and_stop(parking_job, capsys, 5)
    with RunningJob(parking_job, hold="loading") as run:
        assert run.progress()["phase"] == "Starting"
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 75
        run.wait_until_gone()
    finished = finish(parking_job, capsys, expected)
    assert finished.num_restored == stopped.num_parked_tokens


def test_a_bit_that_flips_in_a_parked_slot(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    stopped = run_and_stop(parking_job, capsys, 10)
    index, path = park_index(parking_job), park_folder(parking_job) / "stage-1.kv"
    slot = next(slot for entry in index["entries"] for slot in entry["progress"]["nvme_slots"])
    offset = slot * (path.stat().st_size // index["geometry"]["num_nvme_slots"]) + 100
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    finished = finish(parking_job, capsys, expected)
    assert finished.num_restored < stopped.num_parked_tokens
    assert finished.num_recomputed > 0


def test_kv_that_cannot_be_believed_is_computed_again(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    stopped = run_and_stop(parking_job, capsys, 10)
    (park_folder(parking_job) / "stage-0.index").unlink()
    finished = finish(parking_job, capsys, expected)
    assert re.search(r"KV is discarded.*stage-0\.index: No such file", finished.said)
    assert finished.num_restored == 0
    assert 0 < finished.num_recomputed <= stopped.num_parked_tokens


def test_other_stages_use_the_outputs_alone(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    run_and_stop(parking_job, capsys, 10)
    write_job(parking_job, {"parallelism.stagesPerNode": 1})
    finished = finish(parking_job, capsys, expected)
    assert re.search(r"KV is discarded.*now \(4,\)", finished.said)
    assert finished.num_restored == 0


def test_a_park_index_from_another_model(parking_job: JobFolder, capsys: Capture) -> None:
    """The output was removed and the model replaced; the NVMe folder has still the old KV."""
    run_and_stop(parking_job, capsys, 10)
    shutil.rmtree(parking_job.output)
    other = parking_job.folder / "model"
    shutil.copytree(parking_job.model_folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    write_job(parking_job, {"model": {"uri": str(other), "name": "tiny"}})
    finished = Run(parking_job, capsys)
    assert "parked requests are discarded: it was computed by another model" in finished.said
    assert (finished.num_restored, finished.num_recomputed) == (0, 0)
    assert len(parking_job.by_id()) == NUM_LINES
    assert not list(nvme_of(parking_job).iterdir())


def test_an_earlier_output_of_the_job(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    run_and_stop(parking_job, capsys, 10)
    shutil.rmtree(parking_job.output)
    finished = finish(parking_job, capsys, expected)
    assert "it belongs to an earlier output of this job" in finished.said


def test_a_full_disk_while_parking(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    """The tier was allocated at the start, but there is no room for what names it: without the KV
    there is room for the outputs."""
    with disk_to_fill(nvme_of(parking_job), 10 << 20) as disk:
        stopped = run_and_stop(parking_job, capsys, 10, before=disk.fill)
        assert stopped.exit_code == 75
        assert "the KV is not kept: NVMe tier" in stopped.said
        assert "cannot be parked" in stopped.said
        assert stopped.num_parked_tokens == 0
        disk.clear()
        assert len(parking_job.records()) >= 10
        assert finish(parking_job, capsys, expected).num_restored == 0


def test_a_grace_that_is_too_short_for_all(
    parking_job: JobFolder,
    expected: Answers,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow disk: what it can take in time is parked, the outputs of all others are kept."""
    use_stages(monkeypatch, "kit.faulty_nvme:main_slow")
    monkeypatch.setattr("pipemax_worker.engine.parking.FIRST_BATCH_BYTES", 1)
    write_job(parking_job, {"gracePeriodSeconds": 10, "engine.maxNumRequests": 16})
    stopped = run_and_stop(parking_job, capsys, 4)
    assert stopped.exit_code == 75
    kept = [entry["progress"] for entry in park_index(parking_job)["entries"]]
    assert any(one["output_token_ids"] and not one["nvme_slots"] for one in kept)
    assert any(one["nvme_slots"] for one in kept)
    monkeypatch.undo()
    finished = finish(parking_job, capsys, expected)
    assert finished.num_restored == stopped.num_parked_tokens > 0
    assert finished.num_recomputed > 0


def test_writes_per_day_bound_what_is_parked(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    """Outputs are kept of all that finds no room in it; a second stop on that day parks no more."""
    limit_bytes = 48 << 10
    nvme = {"hostPath": str(nvme_of(parking_job)), "size": "8Mi", "writesPerDay": str(limit_bytes)}
    write_job(parking_job, {"kvCache.nvme": nvme})
    stopped = run_and_stop(parking_job, capsys, 5)
    (index_path,) = nvme_of(parking_job).glob("*/park.json")
    index = json.loads(index_path.read_bytes())["index"]
    slots = {slot for entry in index["entries"] for slot in entry["progress"]["nvme_slots"]}
    kv_bytes = sum(path.stat().st_size for path in index_path.parent.glob("stage-*.kv"))
    block_bytes = kv_bytes // index["geometry"]["num_nvme_slots"]
    assert 0 < len(slots) * block_bytes <= limit_bytes
    assert any(not entry["progress"]["nvme_slots"] for entry in index["entries"])
    again = run_and_stop(parking_job, capsys, len(parking_job.records()) + 2)
    assert again.num_parked_tokens <= stopped.num_parked_tokens
    finished = Run(parking_job, capsys)
    assert finished.exit_code == 0, finished.said
    assert answers_of(parking_job) == expected
    assert [path.name for path in nvme_of(parking_job).iterdir()] == ["pipemax-writes.json"]


def test_a_kill_in_the_middle_of_parking(
    parking_job: JobFolder, expected: Answers, capsys: Capture
) -> None:
    """As soon as a stage's index is there: nothing counts before ``park.json`` does."""
    with RunningJob(parking_job, hold="requests", at=10) as run:
        run.wait_for_requests(10)
        folder = park_folder(parking_job)
        run.process.send_signal(signal.SIGTERM)
        while run.process.poll() is None and not list(folder.glob("*.index")):
            time.sleep(0.0005)
        run.process.kill()
        assert run.end() in (-signal.SIGKILL, 75)
        run.wait_until_gone()
    was_parked = (folder / "park.json").exists()
    assert len(parking_job.records()) >= 10
    finished = Run(parking_job, capsys)
    assert finished.exit_code == 0
    assert answers_of(parking_job) == expected
    assert (finished.num_restored > 0) == was_parked
    for path in nvme_of(parking_job).iterdir():
        os.utime(path, (0, 0))
    sweep_stale_folders(nvme_of(parking_job))
    assert not list(nvme_of(parking_job).iterdir())
