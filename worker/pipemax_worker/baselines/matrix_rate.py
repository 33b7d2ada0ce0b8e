"""How many operations a second a GPU reaches in large matrix products.

python -m pipemax_worker.baselines.matrix_rate cuda:K    (prints one JSON object)
"""

from __future__ import annotations

import json
import sys
import time

import torch

SIZE = 8192
REPEATS = 20


def main(arguments: list[str]) -> int:
    (name,) = arguments
    print(json.dumps({"flops": measure(torch.device(name))}))
    return 0


def measure(device: torch.device, size: int = SIZE, repeats: int = REPEATS) -> float:
    """In bfloat16, after a tenth of the repeats that warm up."""
    left = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    right = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    for _ in range(max(1, repeats // 10)):
        torch.mm(left, right)
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        torch.mm(left, right)
    _wait(device)
    return float(2.0 * size**3 * repeats / (time.perf_counter() - start))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
