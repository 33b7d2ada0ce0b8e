"""The acceptance run without a GPU: what would be run on one, how it is read, cut and gone on."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gpu_acceptance
import pytest
from gpu_acceptance_parts import checks, policies, speeds, steps
from gpu_acceptance_parts.catalogue import PARTS, choose
from gpu_acceptance_parts.part import Figure, Machine, Part, Setting, at_least
from gpu_acceptance_parts.running import (
    RESULTS,
    Ended,
    Run,
    exit_code,
    judge,
    python,
    read_results,
    table,
)

GPUS = (1, 2, 4, 8)


class ParsedError(Exception):
    """Options were understood; nothing is to be run."""


def setting_of(folder: Path, num_gpus: int = 1, **more: bool) -> Setting:
    setting = Setting(Machine(num_gpus, "NVIDIA H200", 141 << 30), folder, **more)
    for name in ("profile.yaml", "predictions.json"):
        setting.file(name).touch()
    return setting


def quiet(line: str) -> None:
    pass


@pytest.fixture
def parses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: object) -> None:
        parse(self, *arguments)  # type: ignore[arg-type]
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


@pytest.mark.usefixtures("parses_only")
@pytest.mark.parametrize("num_gpus", [0, *GPUS])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_command_is_understood_by_its_tool(
    part: Part, num_gpus: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no GPU (0: with --cpu), a slip of an option would show only on one."""
    setting = setting_of(tmp_path, num_gpus, is_cpu=num_gpus == 0)
    if part.why_not_on(setting) is not None:
        return
    _, first, *words = map(str, part.command(setting))
    if first == "-m" and words[0] == "pytest":
        assert all((root / word).exists() for word in words if word.startswith("tests/"))
        return
    monkeypatch.setattr(sys, "argv", [first, *words])
    tool = importlib.import_module(words[0] if first == "-m" else Path(first).stem)
    with pytest.raises(ParsedError):
        tool.main(words[1:]) if first == "-m" else tool.main()
    for word in words:
        if word.startswith(str(root)):
            assert Path(word).exists()


def test_parts_are_chosen_by_name_or_first_word() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert choose(None) == list(PARTS)
    assert [part.name for part in choose(["w1", "kernels"])] == ["kernels", "w1-bench", "w1-job"]
    assert {part.name for part in choose(["step"])} == {p.name for p in steps.STEPS}
    assert [part.name for part in choose(["step-7b"])] == ["step-7b"]
    with pytest.raises(ValueError, match="no part 'stepp'; there are kernels"):
        choose(["stepp"])


def test_predictions_come_before_what_they_predict() -> None:
    names = [part.name for part in PARTS]
    order = ["detect", "predict", "policies"]
    assert sorted(order, key=names.index) == order
    assert names.index("w1-bench") < names.index("w1-job")


def test_what_a_machine_lacks(tmp_path: Path) -> None:
    part = Part("two", "", 1.0, lambda _: [], lambda *_: [], min_gpus=2, runs_on_cpu=False)
    assert part.why_not_on(setting_of(tmp_path, 1)) == "needs 2 GPUs"
    assert part.why_not_on(setting_of(tmp_path, 2)) is None
    assert part.why_not_on(setting_of(tmp_path, is_cpu=True)) == "needs a GPU"
    assert [setting_of(tmp_path, n).num_stages for n in (1, 2, 3, 7, 8)] == [1, 2, 2, 4, 8]


# --- how outputs are read


def held(figures: list[Figure]) -> dict[str, bool | None]:
    return {figure.name: figure.held for figure in figures}


def test_pytest_is_read_by_its_last_line(tmp_path: Path) -> None:
    setting = setting_of(tmp_path)
    good = checks.read_pytest(setting, "....\n54 passed, 2 warnings in 80.1s\n")
    assert [figure.value for figure in good] == [54, 0]
    bad = checks.read_pytest(setting, "F..\n2 failed, 52 passed, 1 error in 80.1s\n")
    assert [(figure.value, figure.held) for figure in bad] == [(52, None), (3, False)]
    with pytest.raises(ValueError, match="no test"):
        checks.read_pytest(setting, "57 deselected in 0.1s")


QUICKSTART = """\
1 cuda stages, roomy: 200/200 right, 310.0 tokens/s, 59.5 s whole, moved device to host 53.7 MiB
1 cuda stages, fp8 kv: 190/200 right, 173.1 tokens/s, 92.9 s whole, moved   <-- BAD
"""


def test_the_quickstarts_runs(tmp_path: Path) -> None:
    setting = setting_of(tmp_path)
    figures = checks.read_quickstart(setting, QUICKSTART)
    assert held(figures)["roomy: right"] is True
    assert held(figures)["fp8 kv: right"] is False
    stopped = "1 cuda stages, stop and resume: exit 75 then 1, 100/616 right  <-- BAD"
    assert held(checks.read_quickstart(setting, stopped)) == {"stop and resume: exit codes": False}
    with pytest.raises(ValueError, match="no run"):
        checks.read_quickstart(setting, "Traceback")


def test_what_a_stop_computes_twice(tmp_path: Path) -> None:
    printed = (
        "job   parking unfinished computed tokens computed twice restored stop parked  records\n"
        "scratch   off   238   9651   7459   0   0.34   0.0   200/200\n"
        "scratch    on   193   7821      3   1   0.54   31.1   199/200\n"
    )
    found = held(checks.read_stop_resume(setting_of(tmp_path), printed))
    assert found["parking off: records"] is True
    assert found["parking on: records"] is False
    assert found["parking on: tokens computed twice"] is False


def test_tokens_against_transformers(tmp_path: Path) -> None:
    rows = [{"model": "qwen2", "ours": 0.96, "transformers_bfloat16": 0.965},
            {"model": "mixtral", "ours": 0.80, "transformers_bfloat16": 0.85}]  # fmt: skip
    (tmp_path / "transformers.json").write_text(json.dumps(rows))
    assert list(held(checks.read_transformers(setting_of(tmp_path), "")).values()) == [True, False]


def test_counters_against_nvml(tmp_path: Path) -> None:
    printed = (
        "20 s, 1 GPUs, NVML by its byte counters\n"
        "host to device: ours 20.1 GiB/s, NVML's 21.0 GiB/s, ratio 0.957\n"
        "device to host: ours 3.0 GiB/s, NVML's 4.0 GiB/s, ratio 0.750\n"
    )
    assert list(held(speeds.read_swap(setting_of(tmp_path), printed)).values()) == [True, False]


def test_a_step_on_pytorchs_kernels_is_no_success(tmp_path: Path) -> None:
    found = {"ahead_over_floor": 1.2, "step_over_floor": 1.5, "ahead_ms": 5.0, "floor_ms": 4.2,
             "copy_gb_per_second": 4200.0, "kernels_used": "torch"}  # fmt: skip
    (tmp_path / "case.json").write_text(json.dumps(found | {"host_ms": {"step": 6.0}}))
    figures = steps.StepCase("case", "Qwen2.5-7B", 8).read(setting_of(tmp_path), "")
    assert held(figures)["step over floor"] is True
    assert held(figures)["kernels"] is False


def test_a_job_is_held_against_the_benchmark_before_it(tmp_path: Path) -> None:
    found = {"output_tokens_per_second": 960.0, "records": 600, "lines": 600, "failed": 0,
             "joules_per_token": 0.05, "steady_joules_per_token": 0.04,
             "panel_metrics_without_data": ["pipemax_gpu_power_watts"]}  # fmt: skip
    (tmp_path / "w1-job.json").write_text(json.dumps(found))
    setting = Setting(Machine(1, "H200"), tmp_path, earlier={"w1-bench": {"output": 1000.0}})
    read = held(speeds.read_w1_job(setting, ""))
    assert read["job over benchmark"] is False
    assert read["records"] is True
    assert read["GPU panels' metrics without data"] is False
    alone = held(speeds.read_w1_job(setting_of(tmp_path), ""))
    assert alone["job over benchmark"] is None


def test_policies_beside_their_predictions(tmp_path: Path) -> None:
    setting = setting_of(tmp_path)
    predicted = {"vllm": {"tokensPerSecond": 1000.0}, "fused": {"tokensPerSecond": 1500.0}}
    setting.file("predictions.json").write_text(json.dumps({"predictions": predicted}))

    def measured(name: str, tokens: int) -> dict[str, object]:
        run = {"num_prompt_tokens": 0, "num_generated_tokens": tokens, "seconds": 1.0}
        return {"name": name, "runs": [run]}

    report = {"pipemax": [measured("vllm", 1050), measured("fused", 1200)]}
    setting.file("policies.json").write_text(json.dumps(report))
    read = held(policies.read_policies(setting, ""))
    assert read["vllm, measured over predicted"] is True
    assert read["fused, measured over predicted"] is False
    assert read["fused over vllm"] is True


# --- running, cutting, going on


def printing(name: str, code: str, read: Callable[[Setting, str], list[Figure]]) -> Part:
    return Part(name, "a test", 30.0, lambda _: python("-c", code), read)


def number(setting: Setting, printed: str) -> list[Figure]:
    return [at_least("number", float(printed.split()[-1]), 5.0)]


def carry_out(folder: Path, *parts: Part, budget: float | None = None, cpu: bool = False) -> Run:
    run = Run(setting_of(folder, is_cpu=cpu), {"gpu": "none"}, budget, quiet)
    run.carry_out(parts)
    return run


def test_every_part_is_written_down_as_it_ends(tmp_path: Path) -> None:
    parts = (
        printing("good", "print(7)", number),
        printing("low", "print(3)", number),
        printing("broken", "raise SystemExit('no luck')", number),
        printing("bad-exit", "print(7); raise SystemExit(3)", number),
    )
    run = carry_out(tmp_path, *parts)
    assert [one.outcome for one in run.results] == ["held", "missed", "failed", "failed"]
    assert "no luck" in run.results[2].fault
    assert run.results[3].fault.startswith("exit 3")
    known = read_results(tmp_path / RESULTS)
    assert list(known.values()) == run.results
    line = json.loads((tmp_path / RESULTS).read_text().splitlines()[0])
    assert line["conditions"] == {"gpu": "none"}
    assert exit_code(run.results[:1]) == 0
    assert exit_code(run.results) == 1
    shown = "\n".join(table(run.results))
    assert "low   " in shown
    assert "MISSED" in shown


def test_speeds_are_not_judged_on_a_cpu(tmp_path: Path) -> None:
    (result,) = carry_out(tmp_path, printing("low", "print(3)", number), cpu=True).results
    assert (result.outcome, result.figures[0].held) == ("ran", None)


def test_a_part_at_its_limit_is_killed_with_its_children(tmp_path: Path) -> None:
    # A shell and no Python: it has printed all long before its limit, on a busy machine too.
    command = ("sh", "-c", "echo 6; sleep 300 & echo $!; wait")
    slow = Part("slow", "a test", 4.0, lambda _: command, number)
    (result,) = carry_out(tmp_path, slow).results
    assert result.outcome == "out of time"
    assert result.figures, "what was printed before is not lost"
    child = Path(f"/proc/{(tmp_path / 'slow.log').read_text().split()[-1]}")
    deadline = time.monotonic() + 60
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.05)


def test_nothing_is_started_that_cannot_end(tmp_path: Path) -> None:
    short = printing("short", "print(7)", number)
    long = Part("long", "", 3000.0, short.command, short.read)
    results = carry_out(tmp_path, long, short, budget=60.0).results
    assert [one.outcome for one in results] == ["not started", "held"]
    assert exit_code(results) == 1
    (result,) = carry_out(tmp_path, short, budget=1.0).results
    assert result.outcome == "not started"


CUT_RUN = """
import sys, pathlib
from gpu_acceptance_parts.part import Machine, Part, Setting
from gpu_acceptance_parts.running import Run, python
part = Part("long", "", 60.0, lambda _: python("-c", "import time; time.sleep(60)"), lambda *_: [])
folder = pathlib.Path(sys.argv[1])
Run(Setting(Machine(1, "gpu"), folder), {}, None, lambda line: print(line, flush=True)).carry_out(
    [part, part]
)
"""


def handles(process_id: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal by now."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_signal_cuts_the_run_and_loses_nothing(root: Path, tmp_path: Path) -> None:
    path = {"PYTHONPATH": f"{root / 'tools'}:{root / 'worker'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", CUT_RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=path
    )
    deadline = time.monotonic() + 60
    while not ((tmp_path / "long.log").is_file() and handles(process.pid, signal.SIGTERM)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    lines = [json.loads(line) for line in (tmp_path / RESULTS).read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["cut", "not started"]


def test_a_second_call_goes_on(tmp_path: Path) -> None:
    carry_out(tmp_path, printing("kernels", "print(7)", number), printing("w1-job", "", number))
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"part": "swap", "outc')  # cut in the middle of a line
    left = gpu_acceptance.parts_left(choose(["kernels", "w1-job", "swap"]), tmp_path)
    assert [part.name for part in left] == ["swap", "w1-job"]


def test_a_reader_that_fails_is_a_failed_part(tmp_path: Path) -> None:
    part = Part("odd", "", 1.0, lambda _: [], lambda *_: [1 / 0])  # type: ignore[list-item]
    result = judge(part, setting_of(tmp_path), ["odd"], Ended(0, "said\n", 1.0))
    assert result.outcome == "failed"
    assert "ZeroDivisionError" in result.fault


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_acceptance, "find_machine", lambda: Machine(0, "cpu"))
    assert gpu_acceptance.main(["--out", str(tmp_path)]) == 2
    assert gpu_acceptance.main(["--parts", "nothing"]) == 2
    assert "no GPU is visible" in (said := capsys.readouterr().out)
    assert "no part 'nothing'" in said
    assert gpu_acceptance.main(["--list"]) == 0
    assert "(needs a GPU)" in capsys.readouterr().out


def test_real_parts_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "kernels,step-7b,w1-job"
    assert gpu_acceptance.main(["--cpu", "--parts", names, "--out", str(tmp_path)]) == 0
    known = read_results(tmp_path / RESULTS)
    outcomes = {name: one.outcome for name, one in known.items()}
    assert outcomes == {"kernels": "needs a GPU", "step-7b": "ran", "w1-job": "held"}
    assert not (tmp_path / "scratch").exists()
    assert "records" in capsys.readouterr().out
