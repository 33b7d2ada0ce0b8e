"""Engines over simulated pipelines, and the loop that checks them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from kit.executor import SimulatedExecutor
from kit.prefix_model import STOP_TOKEN, reference_output
from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.request import FinishedRequest, RecordKey, Request, SamplingParams
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.engine import Engine
from pipemax_worker.engine.policies import build_policy
from pipemax_worker.engine.scheduler import Scheduler
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.eviction import CachedEviction
from pipemax_worker.performance.hardware import CPU_PROFILE, HardwareProfile
from pipemax_worker.performance.link import LinkEstimator
from pipemax_worker.performance.roofline import RooflineEstimator, StageCost

STAGE_COST = StageCost(weight_bytes=1 << 26, num_parameters=1 << 25, kv_bytes_per_token=1 << 12)


class ManualClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


def make_geometry(
    *,
    num_stages: int = 1,
    block_tokens: int = 4,
    device: int = 64,
    host: int = 0,
    nvme: int = 0,
) -> KVGeometry:
    return KVGeometry(
        block_tokens=block_tokens,
        kv_dtype="float32",
        num_kv_heads=2,
        head_dim=8,
        layers_of_stage=(1,) * num_stages,
        num_device_slots=device,
        num_host_slots=host,
        num_nvme_slots=nvme,
    )


def make_config(geometry: KVGeometry, **overrides: Any) -> SchedulerConfig:
    settings: dict[str, Any] = {
        "num_micro_batches": geometry.num_stages,
        "max_batched_tokens": 16,
        "expected_output_tokens": 8,
        "order_window": 0,
    }
    return SchedulerConfig(geometry=geometry, **(settings | overrides))


def make_manager(geometry: KVGeometry) -> BlockManager:
    num_slots = {tier: geometry.num_slots(tier) for tier in Tier}
    return BlockManager(num_slots, geometry.num_stages, CachedEviction())


class Harness:
    """An engine over a simulated pipeline."""

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        policy: str = "fused",
        profile: HardwareProfile = CPU_PROFILE,
        seed: int = 0,
        stop_probability: float = 0.0,
        promote_failures: float = 0.0,
        eager: bool = False,
    ) -> None:
        geometry = config.geometry
        self.config = config
        self.executor = SimulatedExecutor(
            geometry.num_stages,
            geometry.block_tokens,
            seed=seed,
            stop_probability=stop_probability,
            promote_failures=promote_failures,
            max_batched_tokens=config.max_batched_tokens,
            eager=eager,
        )
        self.manager = make_manager(geometry)
        self.estimator = RooflineEstimator(profile, [STAGE_COST] * geometry.num_stages)
        self.scheduler = Scheduler(
            config, self.manager, build_policy(policy), self.estimator, LinkEstimator(profile)
        )
        self.clock = ManualClock()
        self.engine = Engine(self.executor, self.scheduler, self.clock, timeout_seconds=0.01)

    def run(
        self, requests: Sequence[Request] = (), *, max_steps: int = 20_000, check_every: int = 0
    ) -> dict[tuple[int, int], FinishedRequest]:
        """Add ``requests`` and step until all are finished; results by (offset, choice)."""
        for request in requests:
            self.engine.add_request(request)
        results: dict[tuple[int, int], FinishedRequest] = {}
        for step in range(max_steps):
            if not self.engine.has_unfinished_requests:
                break
            for finished in self.engine.step():
                identity = (finished.key.offset, finished.choice)
                assert identity not in results, "returned twice"
                results[identity] = finished
            if check_every and step % check_every == 0:
                self.manager.check_integrity()
        assert not self.engine.has_unfinished_requests, f"not finished after {max_steps} steps"
        return results

    def settle(self) -> None:
        """Let everything in flight come back; then nothing may be held."""
        for _ in range(1_000):
            if not self.engine.in_flight and not self.scheduler.has_pending_copies:
                break
            self.engine.step()
        assert self.manager.num_pending_copies == 0
        assert self.manager.is_idle, "blocks are still held"
        self.manager.check_integrity()

    def expected(self, request: Request) -> tuple[int, ...]:
        executor = self.executor
        return reference_output(
            request.prompt_token_ids,
            request.sampling,
            executor.vocab_size,
            executor.stop_probability,
        )


def make_request(
    offset: int,
    prompt: Sequence[int],
    max_tokens: int,
    *,
    choice: int = 0,
    stop_token_ids: tuple[int, ...] = (STOP_TOKEN,),
    logprobs: int | None = None,
) -> Request:
    sampling = SamplingParams(
        max_tokens=max_tokens, temperature=0.0, stop_token_ids=stop_token_ids, logprobs=logprobs
    )
    return Request(RecordKey("prompts.jsonl", offset), choice, tuple(prompt), sampling)


def random_requests(
    generator: random.Random,
    num_requests: int,
    *,
    max_prompt: int,
    max_output: int,
    shared_heads: int = 0,
) -> list[Request]:
    """Prompts of 1..max_prompt tokens; some begin with one of ``shared_heads`` common heads."""
    heads = [
        [generator.randint(1, 49) for _ in range(generator.randint(1, max_prompt))]
        for _ in range(shared_heads)
    ]
    requests = []
    for offset in range(num_requests):
        length = generator.randint(1, max_prompt)
        prompt = [generator.randint(1, 49) for _ in range(length)]
        if heads and generator.random() < 0.7:
            prompt = (generator.choice(heads) + prompt)[:max_prompt]
        requests.append(make_request(offset, prompt, generator.randint(1, max_output)))
    return requests
