"""`pipemax status`: from the output location alone, whatever became of the run."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from kit.fake_run import FakeSessions
from kit.flaky_engine import FlakyEngine
from kit.jobs import JobFolder, text_line, text_lines
from pipemax_worker.cli.main import main
from pipemax_worker.dataset.energy_ledger import ENERGY_PREFIX
from pipemax_worker.dataset.workers import name_this_worker
from pipemax_worker.errors import StageDiedError
from pipemax_worker.runner import run as run_module


def test_a_job_that_never_started(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(job.write())]) == 66
    assert "no job was started here" in capsys.readouterr().err


def test_a_finished_job(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input([*text_lines(5), b"no json"])
    job.write()
    job.run("--quiet")
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("reviews: finished, started 20")
    assert "6 have a record: 5 succeeded, 1 failed" in text
    assert "1 of 1 done" in text
    assert re.search(r"tokens +\d+ prompt, 15 generated", text)
    assert str(job.output) in text


def test_a_job_that_died_half_way(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        job.write_input(text_lines(4), f"{number}.jsonl")
    sessions.engine.failure, sessions.engine.fails_after = StageDiedError("died"), 2
    job.write({"engine.lookAhead": 4})
    assert job.run("--quiet") == 69
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("reviews: not finished")
    assert re.search(r"8 of about \d+ have a record", text)


def test_json(job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]) -> None:
    path = job.write_input([*text_lines(5), b"no json"])
    job.write()
    job.run("--quiet")
    capsys.readouterr()
    assert main(["status", "--json", str(job.job_file)]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["job"], status["output"]) == ("reviews", str(job.output))
    assert status["finished"] is True
    assert status["requests"] == {"done": 6, "failed": 1, "estimatedTotal": 6}
    assert status["ranges"] == {"total": 1, "done": 1}
    assert status["inputBytes"] == {"total": path.stat().st_size, "done": path.stat().st_size}
    assert status["tokens"]["generated"] == 15
    assert status["createdAt"].startswith("20")
    assert status["failedReasons"] == {"invalid_json": 1}
    assert (status["retry"], status["resumedFrom"], status["copied"]) == (0, [], 0)
    assert status["workers"] == [], "it has ended in order"


def test_why_requests_failed_worst_first(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input([*text_lines(5), text_line("m", model="gpt-4"), *[b"no json"] * 3])
    job.write()
    job.run("--quiet")
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    assert "failures  3 x invalid_json, 1 x model_not_found\n" in capsys.readouterr().out


def test_a_retry_that_was_killed(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One record a key is counted; what the retry has not come to yet is still a failure."""
    engine = FlakyEngine(per_step=1)
    engine.fails = lambda _: True
    monkeypatch.setattr(run_module, "open_session", FakeSessions(engine))
    for number in range(3):
        job.write_input(text_lines(2, f"{number}-"), f"{number}.jsonl")
    job.write()
    job.run("--quiet")
    engine.fails = lambda _: False
    engine.failure, engine.fails_after = RuntimeError("killed"), engine.num_steps + 3
    assert job.run("--quiet", "--retry-failed") == 70
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("reviews: not finished, retry 1 is under way")
    assert "6 of about 6 have a record: 3 succeeded, 3 failed" in text
    assert "3 x stage_died" in text
    assert re.search(r"ranges +1 of 3 done", text)
    assert main(["status", "--json", str(job.job_file)]) == 0
    assert json.loads(capsys.readouterr().out)["retry"] == 1


def test_what_was_taken_over(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(5))
    job.write({"output.uri": "first"})
    job.run("--quiet")
    job.write({"resumeFrom": "first"})
    job.run("--quiet")
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    assert f"copied    5 of them from {job.folder / 'first'}\n" in capsys.readouterr().out


def test_who_works_on_it(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen from another process while it runs: here, from inside a step."""
    job.write_input(text_lines(5))
    job.write()
    seen = []

    def look(_: int) -> None:
        assert main(["status", "--json", str(job.job_file)]) == 0
        seen.extend(json.loads(capsys.readouterr().out)["workers"])
        assert main(["status", str(job.job_file)]) == 0
        assert re.search(
            r"worker +\S+: working, last sign .* holds 1 range", capsys.readouterr().out
        )

    sessions.engine.on_step = look
    job.run("--quiet")
    assert {(worker["phase"], worker["ranges"]) for worker in seen} == {("working", 1)}
    assert seen[0]["name"] == name_this_worker()


@pytest.mark.parametrize(("take_over_after", "phase"), [("5m", "working"), ("15s", "silent")])
def test_who_is_silent_is_the_jobs_to_say(
    job: JobFolder,
    sessions: FakeSessions,
    capsys: pytest.CaptureFixture[str],
    take_over_after: str,
    phase: str,
) -> None:
    job.write_input(text_lines(2))
    job.write({"nodeLoss.takeOverAfter": take_over_after})
    job.run("--quiet")
    at = (datetime.now(UTC) - timedelta(seconds=40)).isoformat()
    beat = job.output / "ledger" / "workers" / "another.00000007"
    beat.write_text(json.dumps({"at": at}))
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    assert f"another: {phase}, last sign of life" in capsys.readouterr().out


def test_energy_of_all_runs(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(3))
    job.write()
    job.run("--quiet")
    capsys.readouterr()
    main(["status", str(job.job_file)])
    assert "  energy  " not in capsys.readouterr().out, "on a CPU nothing is measured"
    for name in ("a-1-2-3.3600000-1800", "b-1-2-3.3600000-1800"):
        (job.output / ENERGY_PREFIX).mkdir(exist_ok=True)
        (job.output / ENERGY_PREFIX / name).write_text("{}")
    main(["status", str(job.job_file)])
    assert "  energy    2 kWh over 1 GPU-hours\n" in capsys.readouterr().out
    main(["status", "--json", str(job.job_file)])
    told = json.loads(capsys.readouterr().out)["jobEnergy"]
    assert told == {"joules": 7_200_000, "gpuSeconds": 3600}
