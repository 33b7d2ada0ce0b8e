"""Under what conditions a benchmark ran: printed with every result."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.pipeline.cores import available_cores
from pipemax_worker.pipeline.launch import WAIT_POLICY, WAIT_VARIABLE
from pipemax_worker.runner.bench_floor import CopySpeeds
from pipemax_worker.runner.bench_work import BenchWork
from pipemax_worker.runner.sizing import SessionSettings

CPU_INFO = Path("/proc/cpuinfo")
PACKAGES = ("pipemax", "torch", "transformers", "flashinfer-python")


class BenchConditions(msgspec.Struct, frozen=True):
    """``load_average``: of the last minute, before the benchmark: other programs' share.
    ``wait_policy``: whether threads sleep or spin while they wait for each other, in all engines.
    """

    cpu: str
    cores: int
    load_average: float
    wait_policy: str
    python: str
    packages: dict[str, str]
    commit: str
    model: str
    dtype: str
    num_requests: int
    prompt_tokens: tuple[int, int, int]
    """Shortest, all together, longest."""
    output_tokens: tuple[int, int, int]
    max_batched_tokens: int
    max_num_running: int
    block_tokens: int
    copies: CopySpeeds | None = None
    memory_limit_bytes: int | None = None
    hidden_max_tokens: int | None = None


def observe_conditions(
    settings: SessionSettings, config: ModelConfig, work: BenchWork
) -> BenchConditions:
    """Look at this machine and describe the work; ``settings`` are those of the first run."""
    pipeline = settings.pipeline
    return BenchConditions(
        cpu=read_cpu_model(),
        cores=available_cores(),
        load_average=os.getloadavg()[0],
        wait_policy=_wait_policy(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        commit=read_commit(Path(__file__).parent),
        model=f"{pipeline.model_folder.name} ({config.architecture}, "
        f"{config.num_hidden_layers} layers)",
        dtype=pipeline.dtype,
        num_requests=len(work),
        prompt_tokens=_spread([len(prompt) for prompt in work.prompts]),
        output_tokens=_spread(work.max_tokens),
        max_batched_tokens=pipeline.max_batched_tokens,
        max_num_running=settings.max_num_running,
        block_tokens=pipeline.block_tokens,
        hidden_max_tokens=work.hidden_max_tokens,
    )


def read_cpu_model(path: Path = CPU_INFO) -> str:
    """Its name as the kernel has it; the architecture where it has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def read_commit(folder: Path) -> str:
    """The checkout's commit, with ``+`` if tracked files differ from it; ``unknown`` elsewhere."""
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _wait_policy() -> str:
    spin_count = os.environ.get("GOMP_SPINCOUNT")
    policy = os.environ.get(WAIT_VARIABLE, WAIT_POLICY)
    return f"{WAIT_VARIABLE}={policy}" + (f" GOMP_SPINCOUNT={spin_count}" if spin_count else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _spread(lengths: list[int] | tuple[int, ...]) -> tuple[int, int, int]:
    return min(lengths), sum(lengths), max(lengths)
