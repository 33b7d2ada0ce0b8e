"""`pipemax plan --detect`: a profile of the machine it stands on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from pipemax_worker.cli.arguments import positive
from pipemax_worker.errors import InputNotFoundError, OutputError
from pipemax_worker.performance.node_profile import NodeProfile, parse_node_profile
from pipemax_worker.pipeline.cores import available_cores
from pipemax_worker.pipeline.gpus import gpu_uuids
from pipemax_worker.planner.detection.cpu import measure_cpu
from pipemax_worker.planner.detection.gpus import GpuSpeeds, list_gpus
from pipemax_worker.planner.detection.profile import (
    profile_cpu,
    profile_gpus,
    render_profile,
)
from pipemax_worker.preflight.disk import measure_nvme
from pipemax_worker.preflight.facts import NvmeFacts
from pipemax_worker.preflight.memory import measure_memory
from pipemax_worker.runner.bench_floor import CopySpeeds, measure_copies, run_meter

MATRIX_METER = "pipemax_worker.baselines.matrix_rate"
_MOST_STAGES = 8


def add_detection(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``plan``."""
    add = parser.add_argument
    add("--detect", action="store_true", help="measure this machine and write its profile; with a "
        "job file, plan for it")  # fmt: skip
    add("--profile", type=Path, metavar="YAML", help="where to write it (default: the terminal)")
    add("--disk", type=Path, metavar="DIR", help="folder on the NVMe disk, to be measured as well")
    add("--stages", type=positive, metavar="N", help="without GPUs: stages, a core each "
        "(default: all cores, at most 8)")  # fmt: skip


def detect(options: argparse.Namespace) -> NodeProfile:
    """Measures, and writes the profile. Raises PreflightError, StageDiedError, OutputError."""
    node = detect_node(options.stages, options.disk, lambda text: print(text, file=sys.stderr))
    text = render_profile(node)
    if options.profile is None:
        print(text, end="")
        return node
    try:
        options.profile.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{options.profile}: cannot be written: {error.strerror or error}"
        ) from error
    print(f"wrote {options.profile}", file=sys.stderr)
    return node


def read_node_profile(path: Path) -> NodeProfile:
    """As ``detect`` writes it. Raises InputNotFoundError, JobFileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputNotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_node_profile(text, str(path))


def detect_node(
    num_stages: int | None, disk_folder: Path | None, say: Callable[[str], None]
) -> NodeProfile:
    """GPUs if ``nvidia-smi`` lists some, else the processor with ``num_stages`` (a core each, at
    most eight, if None). Half a minute with GPUs, seconds without.

    Raises PreflightError (GPUs of two kinds, no measurement) and StageDiedError (no torch).
    """
    gpus = list_gpus(visible=gpu_uuids())
    memory, disk = measure_memory(), _measure_disk(disk_folder, say)
    if not gpus:
        num_stages = num_stages or min(_MOST_STAGES, available_cores())
        say(f"no GPU: measuring {num_stages} stages on the processor")
        return profile_cpu(measure_cpu(num_stages), memory, disk)
    say(f"measuring {len(gpus)} x {gpus[0].name}")
    return profile_gpus(gpus, measure_gpus(len(gpus), measure_copies, measure_flops), memory, disk)


def measure_gpus(
    num_gpus: int,
    copies_of: Callable[[str], CopySpeeds],
    flops_of: Callable[[str], float],
) -> GpuSpeeds:
    """The first alone, then all at once; each by programs of its own, since this one never loads
    torch."""
    alone = copies_of("cuda:0")
    flops = flops_of("cuda:0")
    together = [alone]
    if num_gpus > 1:
        with ThreadPoolExecutor(num_gpus) as pool:
            together = list(pool.map(copies_of, [f"cuda:{k}" for k in range(num_gpus)]))
    return GpuSpeeds(
        memory=alone.device,
        load_alone=alone.host_to_device,
        store_alone=alone.device_to_host,
        loads=tuple(one.host_to_device for one in together),
        stores=tuple(one.device_to_host for one in together),
        flops=flops,
    )


class _Rate(msgspec.Struct, frozen=True):
    flops: float


def measure_flops(device: str, command: Sequence[str] | None = None) -> float:
    """Raises StageDiedError."""
    command = command or [sys.executable, "-m", MATRIX_METER, device]
    return run_meter(f"products on {device}", command, _Rate).flops


def _measure_disk(folder: Path | None, say: Callable[[str], None]) -> NvmeFacts | None:
    if folder is None:
        return None
    facts = measure_nvme(folder)
    if facts.fault is not None:
        say(f"{folder}: not measured: {facts.fault}")
    return facts
