"""Copies between pinned host memory and the first GPU, one way, and says how much it was.

    python tools/plain_copies.py in 4 < /dev/null      # bytes and seconds of four seconds of loads

Prints ``ready`` when memory is there, begins when its input ends, and prints bytes and seconds.
"""

from __future__ import annotations

import sys
import time

import torch

NUM_BYTES = 256 << 20


def main(arguments: list[str]) -> int:
    direction, seconds = arguments[0], float(arguments[1])
    host = torch.randint(0, 255, (NUM_BYTES,), dtype=torch.uint8, pin_memory=True)
    device = host.cuda()
    source, target = (host, device) if direction == "in" else (device, host)
    torch.cuda.synchronize()
    print("ready", flush=True)
    sys.stdin.read()
    start, num_copies = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        num_copies += 1
    print(num_copies * NUM_BYTES, spent, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
