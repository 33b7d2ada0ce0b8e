"""How fast the host link moves scattered KV slots, by slot size: one call a job, or a copy a run.

    python tools/gpu_copies.py
    python tools/gpu_copies.py --slot-kib 256 1024 --mib 512

Rows: loads, stores, both at once; beside them what one plain copy of the same bytes reaches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.geometry import KVGeometry, Tier  # noqa: E402
from pipemax_worker.contract.transfers import CopyJob, pack_int32  # noqa: E402
from pipemax_worker.stage.kv.cuda_copier import CudaCopier  # noqa: E402
from pipemax_worker.stage.kv.device import DeviceKVCache  # noqa: E402
from pipemax_worker.stage.kv.host import HostKVCache  # noqa: E402

ROUNDS = 5
STREAMS = (0, 1, 2, 4)
HEAD_DIM, NUM_KV_HEADS, BLOCK_TOKENS = 128, 4, 16
LAYER_BYTES = 2 * HEAD_DIM * NUM_KV_HEADS * BLOCK_TOKENS * 2


class Slots:
    """A device tier and a host tier of ``num_bytes`` each."""

    def __init__(self, slot_kib: int, num_bytes: int) -> None:
        num_layers = max(1, (slot_kib << 10) // LAYER_BYTES)
        shape = (BLOCK_TOKENS, "bfloat16", NUM_KV_HEADS, HEAD_DIM, (num_layers,))
        self.slot_bytes = KVGeometry(*shape, 0, 0, 0).slot_bytes(0)
        self.num_slots = num_bytes // self.slot_bytes
        geometry = KVGeometry(*shape, self.num_slots, self.num_slots, 0)
        self.device = DeviceKVCache(geometry, 0, torch.device("cuda", 0))
        self.host = HostKVCache(geometry, 0, pinned=True)

    def job(self, source: Tier, target: Tier, seed: int) -> CopyJob:
        """Half of the slots to as many others, in no order; even ones in, odd ones out."""
        generator = torch.Generator().manual_seed(seed)
        first = 0 if source == Tier.HOST else 1
        slots = torch.arange(first, self.num_slots - 1, 2)
        sources, targets = (slots[torch.randperm(len(slots), generator=generator)] for _ in "ab")
        return CopyJob(0, source, target, pack_int32(sources), pack_int32(targets))

    def copier(self, source: Tier, num_streams: int) -> CudaCopier:
        """No streams: a copy of PyTorch's for each run."""
        tiers = (self.host.rows, self.device.rows)
        chosen = tiers if source == Tier.HOST else tiers[::-1]
        copier = CudaCopier(*chosen, self.host.chunk_slots, max(1, num_streams))
        if num_streams == 0:
            copier._batched = None
        return copier


def measure(work: list[Callable[[], Any]]) -> float:
    """Median seconds of all ``work`` at once, each in a thread of its own."""
    seconds = []
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=one) for one in work]
        torch.cuda.synchronize()
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def on_a_stream(work: Callable[[], Any]) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    stream.synchronize()


def measure_slots(slot_kib: int, num_bytes: int) -> dict[str, Any]:
    slots = Slots(slot_kib, num_bytes)
    load, store = slots.job(Tier.HOST, Tier.DEVICE, 1), slots.job(Tier.DEVICE, Tier.HOST, 2)
    moved = load.num_slots * slots.slot_bytes
    row: dict[str, Any] = {"slot_bytes": slots.slot_bytes, "slots": load.num_slots}
    for num_streams in STREAMS:
        name = f"batched x{num_streams}" if num_streams else "by run"
        loader = slots.copier(Tier.HOST, num_streams)
        storer = slots.copier(Tier.DEVICE, num_streams)
        works = {
            "load": [lambda c=loader: c.copy(load, None)],
            "store": [lambda c=storer: c.copy(store, None)],
        }
        works["both"] = works["load"] + works["store"]
        for kind, work in works.items():
            row[f"{name} {kind}"] = moved / measure(work) / 1e9
    half = slots.host.rows[: min(slots.host.chunk_slots, slots.num_slots // 2)]
    plain = slots.device.rows[: len(half)]
    both = [
        lambda: on_a_stream(lambda: plain.copy_(half, non_blocking=True)),
        lambda: on_a_stream(lambda: other_half.copy_(other_plain, non_blocking=True)),
    ]
    other_half, other_plain = slots.host.rows[-len(half) :], slots.device.rows[-len(half) :]
    row["plain both"] = half.numel() / measure(both) / 1e9
    row["plain load"] = half.numel() / measure([lambda: plain.copy_(half, non_blocking=True)]) / 1e9
    row["plain store"] = (
        half.numel() / measure([lambda: half.copy_(plain, non_blocking=True)]) / 1e9
    )
    slots.host.close()
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slot-kib", type=int, nargs="*", default=[64, 256, 1024, 1536, 4096])
    parser.add_argument("--mib", type=int, default=1024, help="of each tier")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for slot_kib in options.slot_kib:
        row = measure_slots(slot_kib, options.mib << 20)
        rows.append(row)
        print({k: round(v, 1) for k, v in row.items()}, "GB/s; both: each way", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
