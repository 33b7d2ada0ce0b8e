"""Random jobs on random pipelines with tiny tiers: every text must be the reference's."""

import random

import msgspec
import pytest
from kit.engine import Harness, make_config, make_geometry, random_requests
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.performance.hardware import CPU_PROFILE, HardwareProfile

FAST_NVME = msgspec.structs.replace(
    CPU_PROFILE, host_to_nvme_bytes_per_second=1e12, nvme_to_host_bytes_per_second=1e12
)


def random_geometry(generator: random.Random, max_tokens: int) -> KVGeometry:
    """From tiers that hold exactly one longest request to roomy ones."""
    block_tokens = generator.choice([1, 2, 4, 8])
    longest = -(-max_tokens // block_tokens)
    tiers = generator.choice(["device", "host", "nvme", "nvme"])
    host = longest + generator.choice([0, 1, longest, 3 * longest, 20 * longest])
    nvme = generator.choice([longest // 2 + 1, longest, 5 * longest, 40 * longest])
    return make_geometry(
        num_stages=generator.choice([1, 1, 2, 4, 8]),
        block_tokens=block_tokens,
        device=longest + generator.choice([0, 0, 1, 2, longest, 3 * longest, 10 * longest]),
        host=0 if tiers == "device" else host,
        nvme=nvme if tiers == "nvme" else 0,
    )


def random_config(generator: random.Random, geometry: KVGeometry) -> SchedulerConfig:
    return make_config(
        geometry,
        num_micro_batches=generator.choice([1, 2, 3, geometry.num_stages, 8]),
        max_batched_tokens=generator.choice([1, 4, 16, 64]),
        max_num_requests=generator.choice([2, 256]),
        run_ahead=generator.random() < 0.5,
        prefix_sharing=generator.random() < 0.6,
        growth_reserve_ratio=generator.choice([0.0, 0.5, 1.0]),
        expected_output_tokens=generator.choice([1, 8, 24]),
        order_window=generator.choice([0, 4, None]),
    )


def random_profile(generator: random.Random) -> HardwareProfile:
    profile = generator.choice([CPU_PROFILE, FAST_NVME])
    bandwidth = generator.choice([1e5, 1e6, 4e9])
    return msgspec.structs.replace(profile, host_to_device_bytes_per_second=bandwidth)


@pytest.mark.parametrize("seed", range(80))
def test_texts_are_right_whatever_the_pipeline(seed: int) -> None:
    generator = random.Random(seed)
    max_prompt, max_output = generator.randint(1, 40), generator.randint(1, 24)
    geometry = random_geometry(generator, max_prompt + max_output - 1)
    harness = Harness(
        random_config(generator, geometry),
        seed=seed,
        profile=random_profile(generator),
        stop_probability=generator.choice([0, 0.05, 0.3]),
        promote_failures=generator.choice([0, 0, 0.05, 0.3]),
        eager=generator.random() < 0.15,
    )
    requests = random_requests(
        generator,
        generator.randint(1, 20),
        max_prompt=max_prompt,
        max_output=max_output,
        shared_heads=generator.choice([0, 1, 3]),
    )
    results = harness.run(requests, check_every=9)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()
