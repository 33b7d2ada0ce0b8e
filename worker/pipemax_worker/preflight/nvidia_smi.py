"""What ``nvidia-smi`` says of GPUs: memory in use, and which of them are gone.

A program and not a library: where a GPU has fallen off the bus, calls into the driver can hang for
ever, and a program that hangs is killed. Every container that has GPUs has it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence

import msgspec

PROGRAM = "nvidia-smi"
TIMEOUT_SECONDS = 15.0

_FIELDS = "uuid,memory.total,memory.used"
_MEBIBYTE = 1 << 20

Ask = Callable[[Sequence[str]], str | None]
"""Runs ``nvidia-smi`` with arguments: all that it said, None if it is not there or hangs."""


class GpuReading(msgspec.Struct, frozen=True):
    """One GPU; None is what it does not tell."""

    uuid: str
    total_bytes: int | None
    used_bytes: int | None


def ask_nvidia_smi(arguments: Sequence[str]) -> str | None:
    """An :data:`Ask` that runs the program."""
    try:
        result = subprocess.run(
            [PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.decode(errors="replace")


def read_gpus(ask: Ask = ask_nvidia_smi) -> dict[str, GpuReading]:
    """All that can be seen, by UUID; none where ``nvidia-smi`` is not there."""
    said = ask((f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"))
    return _parse(said or "")


def find_lost_gpus(known: Iterable[str], ask: Ask = ask_nvidia_smi) -> dict[str, str]:
    """Those of ``known`` (UUIDs that ``nvidia-smi`` has listed before) that are gone, with its own
    words. Empty if it cannot be asked: nobody is accused without evidence."""
    said = ask((f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"))
    if said is None:
        return {}
    present = {uuid for uuid, one in _parse(said).items() if one.total_bytes is not None}
    lost: dict[str, str] = {}
    for uuid in known:
        if uuid in present:
            continue
        alone = ask((f"--id={uuid}", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"))
        if alone is None:
            continue
        reading = _parse(alone).get(uuid)
        if reading is None or reading.total_bytes is None:
            lost[uuid] = " ".join((alone or said).split())[:500]
    return lost


def _parse(said: str) -> dict[str, GpuReading]:
    """Rows ``GPU-..., 24564, 3``; a GPU that is ill has words in place of numbers."""
    readings = {}
    for line in said.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 3 and words[0].startswith("GPU-"):
            total, used = (_bytes(word) for word in words[1:])
            readings[words[0]] = GpuReading(words[0], total, used)
    return readings


def _bytes(word: str) -> int | None:
    return int(word) * _MEBIBYTE if word.isdigit() else None
