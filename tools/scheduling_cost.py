"""What scheduling costs the driver, and what a simulated request costs the planner. CPU time.

    python tools/scheduling_cost.py [--requests 300] [--turns 200] [--digests SEEDS]

*micro-batch*: 256 rows a message, 8 stages; 10,000 requests that take turns on the device, and
10,000 that wait beside those that run. The simulated stages' own time is not counted.
*simulation*: whole runs of Llama-2-70B on 8 x 4090, all of it counted; a short run is mostly tail.
"tight" has the KV that fits there, "ample" 16 times as much: about 160 requests a micro-batch.
``--digests``: also a digest of every message of some small runs, to compare two versions of the
code: equal plans, equal digests. With ``PYTHONPATH`` another version's ``worker`` is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence

import msgspec
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import ExecutorEvent, StageInput
from pipemax_worker.contract.model_config import parse_model_config
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.policies import POLICIES, WITHOUT_HOST_TIER
from pipemax_worker.performance.node_profile import load_node_profile
from pipemax_worker.planner.simulated_pipeline import SimulatedPipeline
from pipemax_worker.planner.simulation import Simulation, SimulationSettings
from pipemax_worker.planner.workload import Workload, draw_workload

BLOCK_TOKENS = 16
NUM_POOLED = 10_000
NUM_ROWS = 256
NUM_STAGES = 8
GROWTH_RESERVE_RATIO = 0.0  # as runs and plans have it
SIMULATIONS = (
    ("tight with a host tier", "fused", 2_300, 100_000, "sharegpt"),
    ("tight", "vllm", 2_300, 0, "sharegpt"),
    ("ample", "fused", 38_000, 0, "sharegpt"),
    ("ample", "vllm", 38_000, 0, "sharegpt"),
    ("tight", "vllm", 2_300, 0, "long-generation"),
    ("ample", "fused", 38_000, 0, "long-generation"),
    ("ample", "vllm", 38_000, 0, "long-generation"),
)
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}


class Observed:
    """An executor that takes note of the time in it, and of the messages if there is a digest."""

    def __init__(self, pipeline: SimulatedPipeline, digest: hashlib.blake2b | None = None) -> None:
        self.seconds = 0.0
        self._pipeline = pipeline
        self._digest = digest

    def submit(self, stage_input: StageInput) -> None:
        start = time.process_time()
        if self._digest is not None:
            self._digest.update(msgspec.msgpack.encode(stage_input))
        self._pipeline.submit(stage_input)
        self.seconds += time.process_time() - start

    def collect(self, timeout_seconds: float) -> Sequence[ExecutorEvent]:
        start = time.process_time()
        events = self._pipeline.collect(timeout_seconds)
        self.seconds += time.process_time() - start
        return events

    def drain(self) -> None: ...

    def park(self, timeout_seconds: float) -> None: ...


def make_settings(
    policy: str, device: int, host: int, nvme: int = 0, look_ahead: int = 1024, **options: object
) -> SimulationSettings:
    model = parse_model_config(MODEL, "config.json")
    if policy in WITHOUT_HOST_TIER:
        host = nvme = 0
    geometry = KVGeometry(
        block_tokens=BLOCK_TOKENS,
        kv_dtype="bfloat16",
        num_kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        layers_of_stage=(model.num_hidden_layers // NUM_STAGES,) * NUM_STAGES,
        num_device_slots=device,
        num_host_slots=host,
        num_nvme_slots=nvme,
    )
    defaults = {"run_ahead": True, "prefix_sharing": False, "max_batched_tokens": 512}
    scheduler = SchedulerConfig(geometry, NUM_STAGES, **(defaults | options))  # type: ignore[arg-type]
    return SimulationSettings(
        load_node_profile("8x4090"), model, scheduler, policy, "bfloat16", look_ahead
    )


def micro_batch_seconds(
    device: int, host: int, num_requests: int, num_turns: int
) -> tuple[float, float]:
    """(driver seconds a message, rows a message) once everything there is room for runs."""
    settings = make_settings(
        "fused", device, host, max_batched_tokens=4096, expected_output_tokens=200
    )
    work = Workload(((40, 200),) * num_requests)
    simulation = Simulation(settings, work)
    observed = simulation.engine.executor = Observed(simulation.pipeline)
    engine = simulation.engine
    for request, checker in work.requests():
        engine.add_request(request, checker)
    num_running = -1
    while engine.num_running > num_running or engine.num_running == 0:
        num_running = engine.num_running
        for _ in range(2 * NUM_STAGES):
            engine.step()
    before, observed.seconds = engine.statistics, 0.0
    start = time.process_time()
    for _ in range(num_turns):
        engine.step()
    seconds = time.process_time() - start - observed.seconds
    after = engine.statistics
    num_steps = after.num_steps - before.num_steps
    num_rows = (after.num_batched_tokens - before.num_batched_tokens) / num_steps
    return seconds / num_steps, num_rows


def simulation_seconds(
    workload: str, num_requests: int, policy: str, device: int, host: int
) -> float:
    """CPU seconds for 1,000 requests."""
    settings = make_settings(
        policy, device, host, max_num_requests=256, growth_reserve_ratio=GROWTH_RESERVE_RATIO
    )
    work = draw_workload(workload, num_requests)
    start = time.process_time()
    Simulation(settings, work).run()
    return (time.process_time() - start) * 1000 / num_requests


def digest_of(policy: str, seed: int, prefix_sharing: bool) -> str:
    """Of all messages of one small, tight run."""
    digest = hashlib.blake2b(digest_size=8)
    settings = make_settings(
        policy, 500, 700, 500, 64, prefix_sharing=prefix_sharing, max_batched_tokens=128
    )
    lengths = draw_workload("sharegpt", 60, seed).lengths
    hidden = 600 if seed % 2 else None
    work = Workload(tuple((p % 400 + 1, o % 300 + 1) for p, o in lengths), hidden)
    simulation = Simulation(settings, work)
    simulation.engine.executor = Observed(simulation.pipeline, digest)
    simulation.run()
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="What scheduling and simulating cost.")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--digests", type=int, default=0)
    arguments = parser.parse_args()
    for seed in range(arguments.digests):
        for policy in sorted(POLICIES):
            for sharing in (False, True):
                print(
                    f"digest {policy} {seed} {sharing:d} {digest_of(policy, seed, sharing)}",
                    flush=True,
                )
    if not arguments.turns:
        return 0
    for name, device, host in (("live", 36_000, 200_000), ("waiting", 36_000, 0)):
        seconds, rows = micro_batch_seconds(device, host, NUM_POOLED, arguments.turns)
        print(
            f"micro-batch, {NUM_POOLED} {name:<8}{1e3 * seconds:>8.3f} ms {rows:>6.0f} rows",
            flush=True,
        )
    for name, policy, device, host, workload in SIMULATIONS:
        seconds = simulation_seconds(workload, arguments.requests, policy, device, host)
        what = f"{workload}, {policy}, {name}"
        print(f"simulation, {what:<44}{seconds:>8.2f} s for 1,000 requests", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
