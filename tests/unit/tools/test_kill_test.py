"""The kill test: what it kills, and that it would see what was lost, doubled or wrong."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import kill_test
import pytest
import yaml
from kill_test import (
    Kill,
    Tally,
    carry_out,
    describe,
    judge,
    plan_kills,
    wait_for,
    write_job,
)
from killable_run import KillableRun
from tiny_task import ARROW


def question(custom_id: str, numbers: str = "3 1 2") -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": f"sort: {numbers} {ARROW}"},
    }


def record_of(request: dict[str, Any], file: str, offset: int, text: str) -> dict[str, Any]:
    return {
        "custom_id": request["custom_id"],
        "response": {"status_code": 200, "body": {"choices": [{"text": text}]}},
        "error": None,
        "pipemax": {"file": file, "offset": offset},
    }


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job of two lines in one file, with right answers."""
    requests = [question("a"), question("b", "9 8")]
    lines = [json.dumps(request).encode() for request in requests]
    write_job(tmp_path, lines)
    records = [
        record_of(requests[0], "in/000000.jsonl", 0, "1 2 3"),
        record_of(requests[1], "in/000000.jsonl", len(lines[0]) + 1, "8 9"),
    ]
    (tmp_path / "out" / "results").mkdir(parents=True)
    write_records(tmp_path, records)
    return tmp_path


def write_records(job: Path, records: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records)
    (job / "out" / "results" / "0.jsonl").write_text(text)


def read_records(job: Path) -> list[dict[str, Any]]:
    text = (job / "out" / "results" / "0.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def judged(job: Path) -> Tally:
    tally = Tally()
    judge(job, tally)
    return tally


def test_half_of_the_kills_come_after_records_and_a_seed_repeats_them() -> None:
    kills = plan_kills(100, seed=1)
    assert kills == plan_kills(100, seed=1) != plan_kills(100, seed=2)
    assert sum(kill.after_records is not None for kill in kills) == 50
    targets = {kill.target for kill in kills}
    assert targets == {"driver", "stage"}
    assert 10 <= sum(kill.target == "stage" for kill in kills) <= 40


def test_a_whole_job_passes(job: Path) -> None:
    tally = judged(job)
    assert tally.passes, tally.wrong
    assert tally.num_lines == 2


def test_a_missing_record_is_seen(job: Path) -> None:
    write_records(job, read_records(job)[:1])
    tally = judged(job)
    assert tally.num_missing == 1
    assert not tally.passes


def test_a_doubled_record_is_seen(job: Path) -> None:
    records = read_records(job)
    write_records(job, [*records, records[1]])
    assert judged(job).num_doubled == 1
    assert not judged(job).passes


def test_a_wrong_answer_is_seen(job: Path) -> None:
    records = read_records(job)
    records[0]["response"]["body"]["choices"][0]["text"] = "1 2 2"
    write_records(job, records)
    tally = judged(job)
    assert [custom_id for custom_id, _ in tally.wrong] == ["a"]
    assert "a: wrong answer: '1 2 2'" in describe(tally, 1.0)


def test_the_job_is_one_of_small_files(tmp_path: Path) -> None:
    lines = [json.dumps(question(str(number))).encode() for number in range(50)]
    job = yaml.safe_load(write_job(tmp_path, lines).read_text())
    assert job["spec"]["model"]["uri"].endswith("models/tiny")
    files = sorted((tmp_path / "in").iterdir())
    assert len(files) == 3
    assert b"".join(path.read_bytes() for path in files).splitlines() == lines


class FakeRun:
    """Has one more record at each look; ends after ``num_records`` with ``exit_code``."""

    def __init__(self, num_records: int, exit_code: int = 0) -> None:
        self.left = num_records
        self.done = 0
        self.end_code = exit_code
        self.killed: list[str] = []
        self.said = "what it said"

    @property
    def exit_code(self) -> int | None:
        self.left -= 1
        return self.end_code if self.left < 0 else None

    def count_done(self) -> int:
        self.done += 1
        return self.done

    def stage_ids(self) -> list[int]:
        return [7]

    def kill(self) -> None:
        self.killed.append("driver")

    def kill_stage(self, process_id: int) -> None:
        self.killed.append(f"stage {process_id}")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Those that will be started, in order."""
    waiting: list[FakeRun] = []
    started = iter(waiting)
    monkeypatch.setattr(kill_test, "KillableRun", lambda *_: next(started))
    monkeypatch.setattr(kill_test, "POLL_SECONDS", 0.0)
    return waiting


def test_a_run_is_killed_after_so_many_records_and_started_again(runs: list[FakeRun]) -> None:
    runs += [FakeRun(100), FakeRun(100)]
    tally = Tally()
    kills = [Kill("driver", 5, 0.0)]
    carry_out(Path("job.yaml"), kills, random.Random(0), tally)
    assert runs[0].killed == ["driver"]
    assert tally.kills == {"driver after some records": 1}
    assert tally.records_at_kill[0] >= 5
    assert (kills, tally.num_runs) == ([], 2)


def test_a_run_gets_over_a_killed_stage_by_itself(runs: list[FakeRun]) -> None:
    runs.append(FakeRun(100))
    tally = Tally()
    carry_out(Path("job.yaml"), [Kill("stage", None, 0.0)], random.Random(0), tally)
    assert runs[0].killed == ["stage 7"]
    assert tally.num_runs == 1


def test_kills_that_a_job_has_not_used_are_left_for_the_next(runs: list[FakeRun]) -> None:
    runs.append(FakeRun(10))
    kills = [Kill("driver", 1000, 0.0)]
    carry_out(Path("job.yaml"), kills, random.Random(0), Tally())
    assert len(kills) == 1


def test_a_run_that_gives_up_is_repeated_and_one_that_fails_is_told(runs: list[FakeRun]) -> None:
    runs += [FakeRun(3, exit_code=69), FakeRun(3, exit_code=70)]
    tally = Tally()
    with pytest.raises(RuntimeError, match="exit code 70:\nwhat it said"):
        carry_out(Path("job.yaml"), [], random.Random(0), tally)
    assert tally.num_given_up == 1


def test_a_run_that_never_ends_is_ended(
    runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill_test, "RUN_SECONDS", -1.0)
    run = FakeRun(10)
    with pytest.raises(RuntimeError, match="no end"):
        wait_for(run, None)  # type: ignore[arg-type]
    assert run.killed == ["driver"]


def test_a_real_run_is_watched_and_killed_with_all_its_processes(tmp_path: Path) -> None:
    """Of a job file that is not there: the process ends by itself, and says why."""
    run = KillableRun(tmp_path / "none.yaml", tmp_path / "log")
    deadline = time.monotonic() + 60
    while run.exit_code is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.exit_code == os.EX_CONFIG
    assert "none.yaml" in run.said
    assert run.count_done() is None
    assert run.stage_ids() == []
    run.kill()
