"""Our swap counters against NVML's count of PCIe bytes, over the same seconds of a rotating run.

    python tools/swap_against_nvml.py                                  # 20 s, one GPU
    python tools/swap_against_nvml.py --model models/tiny --device cpu  # our side alone, to try it

A pipeline with random weights (of ``tools/shapes``) and a device tier of a quarter of the KV in
flight: what a micro-batch lacks is loaded while others compute. Rows: bytes a second to and from
the GPUs by our counters, by NVML's, and the ratio of the two. Exits 1 if one is off by more than
``--tolerance``.

NVML counts packets' headers and requests too, which plain copies of a known size show before: what
it counts is turned into bytes moved by that (``nvml_pcie``). Whatever else crosses the link
(launches, tokens, hidden states between stages without peer access) stays in: one stage has least.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from nvml_pcie import PacketOverhead, PcieBytes, calibrate, measure_pcie  # noqa: E402
from pipemax_worker.contract.geometry import Tier  # noqa: E402
from pipemax_worker.contract.model_config import load_model_config  # noqa: E402
from pipemax_worker.contract.request import RecordKey, Request, SamplingParams  # noqa: E402
from pipemax_worker.contract.statistics import EngineStatistics  # noqa: E402
from pipemax_worker.engine.engine import Engine  # noqa: E402
from pipemax_worker.pipeline.gpus import gpu_uuids  # noqa: E402
from pipemax_worker.runner.bench_settings import (  # noqa: E402
    BenchOptions,
    build_settings,
    with_device_blocks,
)
from pipemax_worker.runner.bench_work import BenchWork, make_work  # noqa: E402
from pipemax_worker.runner.session import open_session  # noqa: E402
from pipemax_worker.telemetry.progress import format_bytes  # noqa: E402

LOADED, STORED = "host to device", "device to host"
KV_PER_DEVICE_KV = 4


def swapped(statistics: EngineStatistics) -> PcieBytes:
    """By our counters, all stages together, since the run's start."""
    moved = {(copy.source, copy.target): copy.num_bytes for copy in statistics.copies}
    return PcieBytes(
        float(moved.get((Tier.HOST, Tier.DEVICE), 0)), float(moved.get((Tier.DEVICE, Tier.HOST), 0))
    )


class RotatingLoad:
    """Requests that never run out: one that has finished is asked again."""

    def __init__(self, engine: Engine, work: BenchWork) -> None:
        self._engine, self._work = engine, work
        self._number = 0
        for _ in work.prompts:
            self._add()

    def run(self, seconds: float) -> tuple[PcieBytes, float]:
        """Bytes a second that the engine has counted over so long, and how long it was."""
        before, start = swapped(self._engine.statistics), time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            for _ in self._engine.step():
                self._add()
        after = swapped(self._engine.statistics)
        loaded, stored = after.received - before.received, after.sent - before.sent
        return PcieBytes(loaded / spent, stored / spent), spent

    def _add(self) -> None:
        index = self._number % len(self._work)
        count = self._work.max_tokens[index]
        sampling = SamplingParams(max_tokens=count, min_tokens=count, temperature=0.0)
        key = RecordKey("swap", self._number)
        self._engine.add_request(Request(key, 0, self._work.prompts[index], sampling))
        self._number += 1


@dataclass(frozen=True)
class Comparison:
    """Of one direction, bytes a second."""

    direction: str
    ours: float
    nvml: float

    @property
    def ratio(self) -> float:
        return self.ours / self.nvml if self.nvml else 0.0

    def is_within(self, tolerance: float) -> bool:
        return abs(self.ratio - 1) <= tolerance

    def describe(self) -> str:
        return (
            f"{self.direction}: ours {format_bytes(self.ours)}/s, NVML's "
            f"{format_bytes(self.nvml)}/s, ratio {self.ratio:.3f}"
        )


def compare(ours: PcieBytes, theirs: PcieBytes) -> tuple[Comparison, Comparison]:
    return (
        Comparison(LOADED, ours.received, theirs.received),
        Comparison(STORED, ours.sent, theirs.sent),
    )


def run(options: argparse.Namespace) -> int:
    config = load_model_config(options.model)
    work = make_work(config, options.requests, seed=1)
    asked = BenchOptions(options.model, dummy_weights_seed=options.dummy_weights)
    settings = build_settings(asked, config, options.stages, options.micro_batches)
    if settings.pipeline.device != options.device:
        pipeline = msgspec.structs.replace(settings.pipeline, device=options.device)
        settings = msgspec.structs.replace(settings, pipeline=pipeline)
    num_blocks = work.num_blocks(settings.pipeline.block_tokens) + len(work)
    least = 2 * work.longest_blocks(settings.pipeline.block_tokens)
    settings = with_device_blocks(settings, max(least, num_blocks // KV_PER_DEVICE_KV), num_blocks)
    overhead = None if options.device == "cpu" else _calibrate()
    with open_session(settings) as session:
        load = RotatingLoad(session.engine, work)
        load.run(options.warm_up)
        if overhead is None:
            return _print_ours(load.run(options.seconds)[0])
        return _print_both(load, options, overhead)


def _calibrate() -> PacketOverhead:
    import pynvml

    pynvml.nvmlInit()
    overhead = calibrate(pynvml, gpu_uuids()[0])
    for name, one in (("loaded", overhead.per_loaded), ("stored", overhead.per_stored)):
        print(f"a byte {name}: NVML counts {one.received:.3f} received, {one.sent:.3f} sent")
    return overhead


def _print_ours(ours: PcieBytes) -> int:
    print(f"{LOADED}: ours {format_bytes(ours.received)}/s; {STORED}: {format_bytes(ours.sent)}/s")
    return 0


def _print_both(load: RotatingLoad, options: argparse.Namespace, overhead: PacketOverhead) -> int:
    import pynvml

    ours = PcieBytes()

    def work() -> float:
        nonlocal ours
        ours, seconds = load.run(options.seconds)
        return seconds

    theirs, how = measure_pcie(pynvml, gpu_uuids()[: options.stages], work)
    comparisons = compare(ours, overhead.moved(theirs))
    print(f"{options.seconds:.0f} s, {options.stages} GPUs, NVML by {how}")
    print(f"NVML: {theirs.received:.4g} B/s received, {theirs.sent:.4g} B/s sent, packets and all")
    for one in comparisons:
        print(one.describe())
    return 0 if all(one.is_within(options.tolerance) for one in comparisons) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "tools" / "shapes" / "Qwen2.5-7B", metavar="FOLDER")
    add("--dummy-weights", type=int, default=1, metavar="SEED", help="of random weights")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--stages", type=int, default=1, help="GPUs (default: %(default)s)")
    add("--micro-batches", type=int, default=4, help="default: %(default)s")
    add("--requests", type=int, default=512, help="in flight (default: %(default)s)")
    add("--warm-up", type=float, default=10.0, metavar="SECONDS", help="default: %(default)s")
    add("--seconds", type=float, default=20.0, help="default: %(default)s")
    add("--tolerance", type=float, default=0.1, help="default: %(default)s")
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
