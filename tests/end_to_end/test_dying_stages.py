"""Stages that are killed, that hang, and requests that kill them: real processes, whole jobs."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import time
from typing import Any

import pytest
from kit.jobs import JobFolder, answer_text, error_code, text_line, text_lines
from kit.poisoned_stage import POISON_TOKEN_ID
from kit.processes import RunningJob
from pipemax_worker.pipeline.executor import PipelineExecutor
from pipemax_worker.runner import session

NUM_LINES = 9
POISONS = (0, 5)
SPEC: dict[str, Any] = {
    "engine.blockTokens": 4,
    "engine.maxBatchedTokens": 64,
    "parallelism.stagesPerNode": 2,
    "errorPolicy": {"maxFailedPercent": 100},
}


def lines_with_poison(poisons: tuple[int, ...], **body: Any) -> list[bytes]:
    """Prompts are token ids; those of ``poisons`` begin with the poison."""
    generator = random.Random(5)
    lines = []
    for number in range(NUM_LINES):
        prompt = [generator.randint(1, POISON_TOKEN_ID - 1) for _ in range(1 + number % 9)]
        if number in poisons:
            prompt = [POISON_TOKEN_ID, *prompt]
        lines.append(text_line(f"r{number}", prompt, **body))  # type: ignore[arg-type]
    return lines


def run_poisoned(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, entry_point: str, *arguments: str
) -> int:
    executor = functools.partial(PipelineExecutor, entry_point=f"kit.poisoned_stage:{entry_point}")
    monkeypatch.setattr(session, "PipelineExecutor", executor)
    return job.run(*arguments)


@pytest.fixture
def expected(job: JobFolder) -> dict[str, str]:
    """The answers of a run without poison."""
    clean = JobFolder(job.folder / "clean", job.model_folder)
    clean.folder.mkdir()
    clean.write_input(lines_with_poison(()))
    clean.write(SPEC)
    assert clean.run("--quiet") == 0
    return {name: answer_text(record) for name, record in clean.by_id().items()}


def check_answers(job: JobFolder, expected: dict[str, str], poisons: tuple[int, ...]) -> None:
    records = job.by_id()
    assert records.keys() == expected.keys()
    bad = {f"r{number}" for number in poisons}
    for name, record in records.items():
        if name in bad:
            assert error_code(record) == "stage_failure"
        else:
            assert answer_text(record) == expected[name]


@pytest.mark.parametrize(
    ("entry_point", "words"),
    [
        ("main_killed", "was killed by signal 10"),
        ("main_raising", "RuntimeError: CUDA error: an illegal memory access"),
        ("main_exiting", "exited with 3"),
    ],
)
def test_requests_that_kill_a_stage_get_error_records_and_all_others_their_answers(
    job: JobFolder,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    expected: dict[str, str],
    entry_point: str,
    words: str,
) -> None:
    job.write_input(lines_with_poison(POISONS))
    job.write(SPEC)
    assert run_poisoned(job, monkeypatch, entry_point) == 0
    check_answers(job, expected, POISONS)
    said = capfd.readouterr()
    assert f"{len(POISONS)} x stage_failure" in said.out
    assert "pipeline  started again" in said.out
    assert words in said.err
    assert words in job.by_id()["r5"]["error"]["message"]


def test_a_lost_gpu_ends_the_run_and_another_machine_goes_on(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
) -> None:
    log = job.folder / "termination-log"
    monkeypatch.setenv("PIPEMAX_TERMINATION_LOG", str(log))
    job.write_input(lines_with_poison((5,)))
    job.write(SPEC | {"engine.maxNumRequests": 2, "engine.lookAhead": 2})
    assert run_poisoned(job, monkeypatch, "main_losing_its_gpu", "--quiet") == 72
    said = json.loads(log.read_bytes())
    assert (said["reason"], said["exitCode"]) == ("GpuLost", 72)
    assert "uncorrectable ECC error" in said["message"]
    done = job.by_id()
    assert 0 < len(done) < NUM_LINES
    assert not [name for name in done if error_code(done[name])], "nobody is to blame for it"
    monkeypatch.undo()
    assert job.run("--quiet") == 0
    assert job.by_id().keys() == expected.keys()
    assert all(answer_text(record) for record in job.by_id().values())
    assert done.items() <= job.by_id().items(), "what was finished is not done again"


def test_a_request_that_makes_a_stage_hang(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
) -> None:
    poisons = (5,)
    job.write_input(lines_with_poison(poisons))
    # Long enough that nobody is taken for hanging who waits for a core; few suspects, so that few
    # such waits find the one.
    few = {"engine.maxNumRequests": 2, "engine.lookAhead": 2}
    job.write(SPEC | few | {"engine.stepTimeout": "6s"})
    assert run_poisoned(job, monkeypatch, "main_hanging", "--quiet") == 0
    check_answers(job, expected, poisons)
    assert "engine.stepTimeout allows 6 s" in job.by_id()["r5"]["error"]["message"]


def test_one_choice_fails_its_line(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
) -> None:
    lines = lines_with_poison((3,), n=2)
    job.write_input(lines)
    job.write(SPEC)
    assert run_poisoned(job, monkeypatch, "main_killed", "--quiet") == 0
    check_answers(job, expected, (3,))


LONG = {"sampling": {"temperature": 0, "maxTokens": 24}}
SLOW = {"engine.maxNumRequests": 4, "engine.lookAhead": 16}


@pytest.fixture
def long_job(job: JobFolder) -> JobFolder:
    """40 requests, four at a time: there is time to break into it."""
    for number in range(4):
        job.write_input(text_lines(10, f"{number}-"), f"{number}.jsonl")
    job.write(SPEC | SLOW | LONG)
    return job


@pytest.fixture
def long_answers(long_job: JobFolder) -> dict[str, str]:
    clean = JobFolder(long_job.folder / "clean", long_job.model_folder)
    clean.folder.mkdir()
    for path in long_job.folder.glob("*.jsonl"):
        clean.write_input(path.read_bytes().splitlines(), path.name)
    clean.write(SPEC | LONG)
    assert clean.run("--quiet") == 0
    return {name: answer_text(record) for name, record in clean.by_id().items()}


def counter(run: RunningJob, name: str) -> float:
    """The sum over all labels."""
    lines = run.get("metrics").decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("number", [0, 3, 15])
def test_a_stage_killed_at_any_time_costs_no_answer(
    long_job: JobFolder, long_answers: dict[str, str], number: int
) -> None:
    point = "requests" if number else "restarts"
    with RunningJob(long_job, hold=point, at=number or 1) as run:
        run.wait_for_requests(number)
        while not (stages := run.stage_ids()):
            time.sleep(0.01)
        before = counter(run, "pipemax_tokens_total")
        os.kill(stages[number % len(stages)], signal.SIGKILL)
        run.hold("restarts", 1)
        while counter(run, "pipemax_pipeline_restarts_total") < 1:
            assert run.process.poll() is None
            time.sleep(0.01)
        assert counter(run, "pipemax_tokens_total") >= before
        assert run.progress()["pipelineRestarts"] == 1
        run.release()
        assert run.end() == 0, run.said
        run.wait_until_gone()
    assert "is started again" in "".join(run.said)
    found = {name: answer_text(record) for name, record in long_job.by_id().items()}
    assert found == long_answers


def test_a_stage_that_is_stopped_from_outside_is_replaced(
    long_job: JobFolder, long_answers: dict[str, str]
) -> None:
    long_job.write(SPEC | SLOW | LONG | {"engine.stepTimeout": "6s"})
    with RunningJob(long_job, hold="requests", at=5) as run:
        run.wait_for_requests(5)
        os.kill(run.stage_ids()[1], signal.SIGSTOP)
        run.release()
        assert run.end() == 0, run.said
        run.wait_until_gone()
    assert "hangs: 6 s without an answer" in "".join(run.said)
    found = {name: answer_text(record) for name, record in long_job.by_id().items()}
    assert found == long_answers


def test_all_stages_and_their_fork_server_killed_at_once(
    long_job: JobFolder, long_answers: dict[str, str]
) -> None:
    with RunningJob(long_job, hold="requests", at=5) as run:
        run.wait_for_requests(5)
        for process_id in run.process_ids():
            if process_id != run.driver_id:
                os.kill(process_id, signal.SIGKILL)
        run.release()
        assert run.end() == 0, run.said
        run.wait_until_gone()
    found = {name: answer_text(record) for name, record in long_job.by_id().items()}
    assert found == long_answers
