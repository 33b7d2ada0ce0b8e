"""How fast this machine copies memory: the measure of a step's floor and of the links.

python -m pipemax_worker.baselines.memory_copy cpu|cuda:K    (prints one JSON object)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

CPU_BYTES = 256 << 20
GPU_BYTES = 4 << 30
PINNED_BYTES = 1 << 30
REPEATS = 5


def main(arguments: list[str]) -> int:
    (name,) = arguments
    print(json.dumps(measure(torch.device(name))))
    return 0


def measure(device: torch.device, num_bytes: int | None = None) -> dict[str, float | str]:
    """Bytes per second by direction. On a GPU the bytes that a copy reads and writes both count."""
    is_gpu = device.type == "cuda"
    size = num_bytes or (GPU_BYTES if is_gpu else CPU_BYTES)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    speeds: dict[str, float | str] = {
        "name": torch.cuda.get_device_name(device) if is_gpu else "cpu",
        "device": 2 * _bytes_per_second(source, torch.empty_like(source), device),
    }
    if is_gpu:
        pinned = torch.empty(PINNED_BYTES, dtype=torch.uint8).pin_memory()
        part = source[:PINNED_BYTES]
        speeds["host_to_device"] = _bytes_per_second(pinned, part, device)
        speeds["device_to_host"] = _bytes_per_second(part, pinned, device)
    return speeds


def _bytes_per_second(source: torch.Tensor, target: torch.Tensor, device: torch.device) -> float:
    def copy() -> None:
        target.copy_(source, non_blocking=True)

    return source.nbytes / min(_seconds(copy, device) for _ in range(REPEATS))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
