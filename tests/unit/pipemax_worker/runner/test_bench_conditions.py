"""A benchmark says under what conditions it ran."""

import subprocess
from pathlib import Path

import pytest
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.runner.bench_conditions import (
    observe_conditions,
    read_commit,
    read_cpu_model,
)
from pipemax_worker.runner.bench_settings import BenchOptions, build_settings
from pipemax_worker.runner.bench_work import BenchWork

TINY = Path(__file__).parents[4] / "models" / "tiny"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_conditions_describe_work_and_settings() -> None:
    config = load_model_config(TINY)
    settings = build_settings(BenchOptions(TINY, max_batched_tokens=77), config, 1)
    work = BenchWork(((1,), (1, 2, 3), (1, 2)), (9, 4, 5))
    conditions = observe_conditions(settings, config, work)
    assert conditions.num_requests == 3
    assert conditions.prompt_tokens == (1, 6, 3)
    assert conditions.output_tokens == (4, 18, 9)
    assert conditions.max_batched_tokens == 77
    assert conditions.dtype == "float32"
    assert conditions.model == "tiny (LlamaForCausalLM, 8 layers)"
    assert conditions.cores >= 1
    assert conditions.packages["torch"][0].isdigit()


def test_the_cpu_is_named_as_the_kernel_names_it(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A CPU: fast\nmodel name\t: other\n")
    assert read_cpu_model(info) == "A CPU: fast"
    assert read_cpu_model(tmp_path / "none") != ""


def test_a_commit_carries_a_mark_when_files_differ_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "First")
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert read_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert read_commit(tmp_path) == commit + "+"


def test_no_checkout_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_commit(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", "")
    assert read_commit(tmp_path) == "unknown"


def test_how_threads_wait_is_part_of_the_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_model_config(TINY)
    settings = build_settings(BenchOptions(TINY), config, 1)
    work = BenchWork(((1,),), (1,))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert observe_conditions(settings, config, work).wait_policy == "OMP_WAIT_POLICY=PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    expected = "OMP_WAIT_POLICY=ACTIVE GOMP_SPINCOUNT=7"
    assert observe_conditions(settings, config, work).wait_policy == expected
