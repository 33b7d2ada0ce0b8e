"""Where the time of a decode step goes: one stage with random weights in this process, no driver.

    python tools/gpu_step.py --model tools/shapes/Qwen2.5-7B --requests 128 --context 830
    python tools/gpu_step.py --model models/tiny --requests 8 --context 40   # on a CPU, to try it

Prints the step's time against its floor (bytes of weights and KV over the bandwidth that a copy
reaches here), what the host does in it, and with ``--profile`` the kernels by their time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.geometry import KVGeometry, num_blocks_for  # noqa: E402
from pipemax_worker.contract.messages import NewRequest, ScheduledRequest  # noqa: E402
from pipemax_worker.contract.model_config import ModelConfig, load_model_config  # noqa: E402
from pipemax_worker.contract.request import SamplingParams  # noqa: E402
from pipemax_worker.contract.transfers import pack_int32  # noqa: E402
from pipemax_worker.stage.batch import build_batch  # noqa: E402
from pipemax_worker.stage.kv.device import KV_DTYPES, DeviceKVCache  # noqa: E402
from pipemax_worker.stage.model.model import StageModel  # noqa: E402
from pipemax_worker.stage.model.random_weights import RandomWeights  # noqa: E402
from pipemax_worker.stage.sampler import Sampler  # noqa: E402

COPY_BYTES = 4 << 30
WARM_UP_STEPS = 5


class Bench:
    """One stage with ``num_requests`` requests whose KV is in scattered slots."""

    def __init__(self, options: argparse.Namespace, config: ModelConfig) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.block_tokens = options.block_tokens
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        num_layers = options.layers or config.num_hidden_layers
        kv_dtype = options.kv_dtype or ("bfloat16" if self.device.type == "cuda" else "float32")
        weights = RandomWeights(0, self.device, dtype)
        self.model = StageModel(
            config, weights, 0, num_layers, True, True, self.device, dtype, KV_DTYPES[kv_dtype]
        )
        self.contexts = self._contexts(options.requests, options.context)
        num_slots = sum(num_blocks_for(n + 1, self.block_tokens) for n in self.contexts)
        num_slots += num_blocks_for(max(options.prefill, 1), self.block_tokens)
        geometry = KVGeometry(
            self.block_tokens, kv_dtype, config.num_key_value_heads, config.head_dim,
            (num_layers,), num_slots, 0, 0,
        )  # fmt: skip
        self.kv = DeviceKVCache(geometry, 0, self.device).blocks
        for layer in self.kv.unbind(1):
            layer.copy_(torch.randn(layer.shape, device=self.device, dtype=dtype))
        self.scheduled = self._schedule(num_slots, options.prefill)
        self.sampler = Sampler(config.vocab_size, self.device)
        for row in self.scheduled:
            params = SamplingParams(max_tokens=1 << 30, temperature=0.0)
            self.sampler.add(NewRequest(row.request_id, b"", b"", params, 0))
        num_tokens = sum(row.num_new_tokens for row in self.scheduled)
        generator = torch.Generator().manual_seed(0)
        self.token_ids = torch.randint(0, config.vocab_size, (num_tokens,), generator=generator)
        self.set_kernels(options)
        elements = config.kv_bytes_per_token_and_layer_element * num_layers
        kv_tokens = sum(self.contexts) + len(self.contexts) + options.prefill
        self.kv_bytes = kv_tokens * elements * self.kv.dtype.itemsize
        self.weight_bytes = self.model.weight_bytes
        if not config.tie_word_embeddings and self.model._embedding is not None:
            self.weight_bytes -= self.model._embedding.weight_bytes  # it is looked up

    def set_kernels(self, options: argparse.Namespace) -> None:
        if options.kernels == "torch":
            self.model._cuda = None
        elif self.model._cuda is not None:
            self.model._cuda._uses_graphs = options.kernels == "graphs"

    @staticmethod
    def _contexts(num_requests: int, mean: int) -> list[int]:
        """Log-normal, as in real jobs; their mean is ``mean``."""
        generator = torch.Generator().manual_seed(1)
        lengths = torch.exp(0.6 * torch.randn(num_requests, generator=generator))
        lengths *= mean / lengths.mean()
        return [max(1, int(length)) for length in lengths.tolist()]

    def _schedule(self, num_slots: int, prefill: int) -> list[ScheduledRequest]:
        free = torch.randperm(num_slots, generator=torch.Generator().manual_seed(7)).tolist()
        rows = [(context, 1) for context in self.contexts]
        rows += [(0, prefill)] if prefill else []
        scheduled = []
        for number, (computed, num_new) in enumerate(rows):
            num_blocks = num_blocks_for(computed + num_new, self.block_tokens)
            slots, free = free[:num_blocks], free[num_blocks:]
            scheduled.append(
                ScheduledRequest(number, computed, num_new, None, pack_int32(slots), True)
            )
        return scheduled

    @torch.inference_mode()
    def step(self) -> dict[str, float]:
        """One step as a stage runs it; the seconds that the host spends in its parts."""
        marks = [time.perf_counter()]
        batch = build_batch(self.scheduled, self.block_tokens, self.device)
        marks.append(time.perf_counter())
        logits = self.model.forward(self.token_ids, batch, self.kv)
        marks.append(time.perf_counter())
        self.sampler.sample(batch.sample_ids, logits)
        marks.append(time.perf_counter())
        names = ("build_batch", "issue_forward", "sample_and_wait")
        parts = {n: b - a for n, a, b in zip(names, marks, marks[1:], strict=False)}
        return {**parts, "step": marks[-1] - marks[0]}

    @torch.inference_mode()
    def launch(self) -> torch.cuda.Event:
        """One step as a stage launches it ahead of the GPU; the event is its end."""
        batch = build_batch(self.scheduled, self.block_tokens, self.device)
        logits = self.model.forward(self.token_ids, batch, self.kv)
        self.sampler.launch(batch.sample_ids, logits)
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        return end


def measure_copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a device copy, read and written bytes counted."""
    num_bytes = 64 << 20
    if device.type == "cuda":  # a card of 24 GB has little room left beside the model
        num_bytes = min(COPY_BYTES, torch.cuda.mem_get_info()[0] // 4)
    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [timed(lambda: target.copy_(source), device) for _ in range(8)]
    return 2 * num_bytes / statistics.median(seconds[2:])


def timed(work: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(bench: Bench, num_steps: int) -> dict[str, float]:
    """Medians over the steps, in seconds."""
    for _ in range(WARM_UP_STEPS):
        bench.step()
    steps = [bench.step() for _ in range(num_steps)]
    return {name: statistics.median(step[name] for step in steps) for name in steps[0]}


def measure_ahead(bench: Bench, num_steps: int) -> float:
    """Median seconds from one step's end to the next one's, while the host is ahead."""
    ends = [bench.launch() for _ in range(num_steps + 1)]
    ends[-1].synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(ends)) / 1e3


def sweep_chunks(bench: Bench, options: argparse.Namespace) -> dict[int, float]:
    """Milliseconds of a step launched ahead, by the length of attention's chunks in tokens."""
    found = {}
    steps = bench.model._cuda
    assert steps is not None
    default = steps._chunk_tokens
    for chunk_tokens in [*map(int, options.sweep_chunks.split(",")), default]:
        steps._chunk_tokens = chunk_tokens
        measure(bench, 1)
        found[chunk_tokens] = 1e3 * measure_ahead(bench, options.steps)
    return found


def describe_table(bench: Bench) -> dict[str, Any]:
    """Microseconds of all layers' products by rows, and what a step of these rows is padded to."""
    table = None if bench.model._cuda is None else bench.model._cuda.gemm_table
    if table is None:
        return {}
    num_rows = len(bench.token_ids)
    pairs = zip(table.row_counts, table.step_microseconds, strict=True)
    return {
        "padded": table.padded_rows(num_rows),
        "libraries": {kind: table.library_for(kind, num_rows) for kind in table.microseconds},
        "step": {rows: round(microseconds) for rows, microseconds in pairs},
        "microseconds": table.microseconds,
    }


def profile(bench: Bench, num_steps: int) -> Iterator[tuple[str, float, int]]:
    """(kernel, milliseconds a step, launches a step), slowest first; on a CPU its operators."""
    kind = torch.profiler.ProfilerActivity
    on_gpu = bench.device.type == "cuda"
    activities = [kind.CUDA] if on_gpu else [kind.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(num_steps):
            bench.step()
    rows = []
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        rows.append((event.key, microseconds / 1e3 / num_steps, event.count // num_steps))
    yield from sorted(rows, key=lambda row: -row[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--layers", type=int, help="of the model; default: all")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--context", type=int, default=830, help="mean tokens of a request")
    parser.add_argument("--prefill", type=int, default=0, help="tokens of a prompt fused in")
    parser.add_argument("--block-tokens", type=int, default=16)
    parser.add_argument("--kv-dtype")
    parser.add_argument("--kernels", choices=["torch", "launched", "graphs"], default="graphs")
    parser.add_argument("--sweep-chunks", help="attention chunks to try, e.g. 128,256,512")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    bench = Bench(options, load_model_config(options.model))
    bandwidth = measure_copy_bandwidth(bench.device)
    result: dict[str, Any] = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "device": torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu",
        "kernels_used": "torch" if bench.model._cuda is None else options.kernels,
        "copy_gb_per_second": bandwidth / 1e9,
        "weight_gb": bench.weight_bytes / 1e9,
        "kv_gb": bench.kv_bytes / 1e9,
        "floor_ms": 1e3 * (bench.weight_bytes + bench.kv_bytes) / bandwidth,
    }
    seconds = measure(bench, options.steps)
    result["host_ms"] = {name: 1e3 * value for name, value in seconds.items()}
    result["step_over_floor"] = result["host_ms"]["step"] / result["floor_ms"]
    if bench.device.type == "cuda":
        result["ahead_ms"] = 1e3 * measure_ahead(bench, options.steps)
        result["ahead_over_floor"] = result["ahead_ms"] / result["floor_ms"]
        result["gemm_table"] = describe_table(bench)
        result["peak_gib"] = torch.cuda.max_memory_reserved() / 2**30
    if options.sweep_chunks:
        result["step_ms_by_chunk"] = sweep_chunks(bench, options)
    if options.profile:
        rows = list(profile(bench, 5))
        result["device_ms"] = sum(row[1] for row in rows)
        result["launches"] = sum(row[2] for row in rows)
        result["kernels"] = rows[:30]
    for name, value in result.items():
        if name == "kernels":
            for kernel, milliseconds, launches in value:
                print(f"  {milliseconds:9.4f} ms {launches:5d}x  {kernel[:110]}")
        elif name == "gemm_table":
            print({key: value[key] for key in list(value)[:3]})
        else:
            print(f"{name}: {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
