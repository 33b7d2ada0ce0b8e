"""Which GPUs ``nvidia-smi`` lists, and which card with a profile each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pipemax_worker.errors import PreflightError
from pipemax_worker.performance.node_profile import hardware_names
from pipemax_worker.preflight.nvidia_smi import ask_nvidia_smi

_MEBIBYTE = 1 << 20
_FIELDS = "uuid,name,memory.total,power.limit"


class ListedGpu(msgspec.Struct, frozen=True):
    """``power_watts``: its limit; None if it does not tell."""

    name: str
    memory_bytes: int
    power_watts: float | None


class GpuSpeeds(msgspec.Struct, frozen=True):
    """Measured, in bytes per second: of one card alone, and of all while all copy at once.

    memory       of a copy within the card; bytes read and written both count.
    loads, stores   to and from pinned memory: of the first card alone, then of each with all.
    flops        of large matrix products in bfloat16.
    """

    memory: float
    load_alone: float
    store_alone: float
    loads: tuple[float, ...]
    stores: tuple[float, ...]
    flops: float


def list_gpus(
    ask: Callable[[Sequence[str]], str | None] = ask_nvidia_smi,
    visible: Sequence[str] | None = None,
) -> tuple[ListedGpu, ...]:
    """Those of the UUIDs ``visible``, in its order, since ``nvidia-smi`` knows nothing of
    ``CUDA_VISIBLE_DEVICES``; None: all. Empty without ``nvidia-smi`` or without GPUs. Raises
    PreflightError for GPUs of two kinds, over which a model would have to be cut unevenly."""
    said = ask((f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")) or ""
    listed = dict(row for line in said.splitlines() if (row := _parse(line)) is not None)
    wanted = listed if visible is None else visible
    gpus = tuple(listed[uuid] for uuid in wanted if uuid in listed)
    names = sorted({gpu.name for gpu in gpus})
    if len(names) > 1:
        raise PreflightError(
            f"this machine has GPUs of several kinds ({', '.join(names)}); a profile describes one "
            "kind: choose with CUDA_VISIBLE_DEVICES, or write the profile by hand"
        )
    return gpus


def _parse(line: str) -> tuple[str, ListedGpu] | None:
    """The GPU behind its UUID."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != 4 or not words[2].isdigit():
        return None
    try:
        power_watts: float | None = float(words[3])
    except ValueError:
        power_watts = None
    return words[0], ListedGpu(words[1], int(words[2]) * _MEBIBYTE, power_watts)


def known_card(name: str) -> str | None:
    """The profile whose name is a word of the card's; None: there is none."""
    words = name.lower().replace("-", " ").split()
    return next((card for card in hardware_names() if card in words), None)
