"""``nvidia-smi`` as it speaks when all is well, when a GPU is gone, and when it is not there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pipemax_worker.preflight import nvidia_smi
from pipemax_worker.preflight.nvidia_smi import (
    GpuReading,
    ask_nvidia_smi,
    find_lost_gpus,
    read_gpus,
)

WELL = "GPU-aaaa, 24564, 3\nGPU-bbbb, 24564, 1200\n"
ONE = "GPU-aaaa, 24564, 3\n"
HANDLE = (
    "Unable to determine the device handle for GPU0000:0B:00.0: GPU is lost.  "
    "Reboot the system to recover this GPU\n"
)
BOTH = ["GPU-aaaa", "GPU-bbbb"]


def says(everything: str | None, alone: str | None = None) -> Callable[[Sequence[str]], str | None]:
    """What it answers for all GPUs, and for a single one."""

    def ask(arguments: Sequence[str]) -> str | None:
        return alone if arguments[0].startswith("--id=") else everything

    return ask


def test_memory_of_each_gpu() -> None:
    found = read_gpus(says(WELL))
    assert found["GPU-bbbb"] == GpuReading("GPU-bbbb", 24564 << 20, 1200 << 20)
    assert list(found) == BOTH
    assert find_lost_gpus(BOTH, says(WELL)) == {}


@pytest.mark.parametrize(
    ("everything", "alone"),
    [
        (HANDLE + ONE, HANDLE),
        (ONE, "No devices were found\n"),
        (ONE + "GPU-bbbb, [GPU is lost], [GPU is lost]\n", "GPU-bbbb, [GPU is lost], [N/A]\n"),
    ],
)
def test_a_gpu_that_is_gone_is_named_with_its_words(everything: str, alone: str) -> None:
    lost = find_lost_gpus(BOTH, says(everything, alone))
    assert list(lost) == ["GPU-bbbb"]
    assert lost["GPU-bbbb"] == " ".join(alone.split())


def test_a_driver_that_is_gone_has_lost_all() -> None:
    words = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert list(find_lost_gpus(BOTH, says(words, words))) == BOTH


@pytest.mark.parametrize(
    ("everything", "alone"),
    [(None, None), (ONE, None), ("", "GPU-aaaa, 1, 1\nGPU-bbbb, 1, 1\n")],
    ids=["not there", "hangs", "is there when asked again"],
)
def test_nobody_is_accused_without_evidence(everything: str | None, alone: str | None) -> None:
    assert find_lost_gpus(BOTH, says(everything, alone)) == {}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of ``nvidia-smi``."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


def test_the_program_is_run(program: Callable[[str], None]) -> None:
    program('echo "$@"; echo words >&2; exit 9')
    assert ask_nvidia_smi(["--id=GPU-x", "--format=csv"]) == "--id=GPU-x --format=csv\nwords\n"


def test_a_program_that_hangs_is_left(
    program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_smi, "TIMEOUT_SECONDS", 0.1)
    program("exec sleep 60")
    assert ask_nvidia_smi([]) is None


def test_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_smi, "PROGRAM", "no-nvidia-smi-here")
    assert ask_nvidia_smi([]) is None
    assert read_gpus() == {}
