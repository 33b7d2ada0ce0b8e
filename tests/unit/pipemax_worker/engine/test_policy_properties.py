"""Every policy on random pipelines with tiny tiers: all texts right, nobody starved, no block lost,
budgets kept, and the same run twice."""

import random

import pytest
from kit.engine import Harness, make_config, make_geometry, random_requests
from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.messages import StageInput
from pipemax_worker.contract.transfers import unpack_int32
from pipemax_worker.engine.config import HostEviction
from pipemax_worker.engine.output_lengths import LengthPrediction
from pipemax_worker.engine.policies import POLICIES

RIVALS = sorted(set(POLICIES) - {"fused"})  # fused has test_properties to itself


def build(policy: str, seed: int, *, eager: bool = False) -> tuple[Harness, random.Random, int]:
    generator = random.Random(seed)
    block_tokens = generator.choice([1, 2, 4])
    max_tokens = generator.randint(6, 50)
    longest = -(-max_tokens // block_tokens)
    has_host = generator.random() < 0.7
    geometry = make_geometry(
        num_stages=generator.choice([1, 2, 4, 8]),
        block_tokens=block_tokens,
        device=longest + generator.choice([0, 1, 2, longest, 6 * longest]),
        host=longest + generator.choice([0, 1, longest, 10 * longest]) if has_host else 0,
        nvme=generator.choice([0, longest, 4 * longest]) if has_host else 0,
    )
    config = make_config(
        geometry,
        num_micro_batches=generator.choice([1, 2, 3, 8]),
        max_batched_tokens=generator.choice([1, 4, 16, 64]),
        max_num_requests=generator.choice([2, 256]),
        run_ahead=generator.random() < 0.5,
        prefix_sharing=generator.random() < 0.5,
        growth_reserve_ratio=generator.choice([0.0, 1.0]),
        expected_output_tokens=generator.choice([1, 8, 24]),
        length_prediction=generator.choice(list(LengthPrediction)),
        host_eviction=generator.choice(list(HostEviction)),
    )
    harness = Harness(
        config,
        policy=policy,
        seed=seed,
        stop_probability=generator.choice([0, 0.1]),
        promote_failures=generator.choice([0, 0, 0.1]),
        eager=eager,
    )
    return harness, generator, max_tokens


@pytest.mark.parametrize("policy", RIVALS)
@pytest.mark.parametrize("seed", range(16))
def test_everything_comes_out_right(policy: str, seed: int) -> None:
    harness, generator, max_tokens = build(policy, seed)
    max_prompt = generator.randint(1, max_tokens // 2)
    requests = random_requests(
        generator,
        generator.randint(1, 24),
        max_prompt=max_prompt,
        max_output=max_tokens - max_prompt,
        shared_heads=generator.choice([0, 2]),
    )
    results = harness.run(requests, check_every=9)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()


def assert_within_budgets(message: StageInput, harness: Harness) -> None:
    config = harness.config
    assert len(message.scheduled) <= config.max_num_requests
    assert sum(row.num_new_tokens for row in message.scheduled) <= config.max_batched_tokens
    for job in (*message.prefetch, *message.background, *message.stores_after):
        for tier, slots in ((job.source, job.source_slots), (job.target, job.target_slots)):
            assert all(0 <= s < config.geometry.num_slots(Tier(tier)) for s in unpack_int32(slots))


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("seed", range(100, 108))
def test_no_message_is_above_what_the_stages_hold(policy: str, seed: int) -> None:
    harness, generator, max_tokens = build(policy, seed)
    requests = random_requests(
        generator, 20, max_prompt=max_tokens // 2, max_output=max_tokens - max_tokens // 2
    )
    harness.run(requests)
    for message in harness.executor.submitted:
        assert_within_budgets(message, harness)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("seed", range(200, 204))
def test_two_equal_runs_give_equal_plans(policy: str, seed: int) -> None:
    runs = []
    for _ in range(2):
        harness, generator, max_tokens = build(policy, seed)
        requests = random_requests(
            generator, 15, max_prompt=max_tokens // 2, max_output=max_tokens - max_tokens // 2
        )
        harness.run(requests)
        runs.append(harness.executor.submitted)
    assert runs[0] == runs[1]


def roomy(num_stages: int = 4) -> KVGeometry:
    return make_geometry(num_stages=num_stages, block_tokens=4, device=200, host=2000)


@pytest.mark.parametrize("policy", ["pipemax", "tdpipe"])
def test_phases_keep_prompts_and_decoding_apart(policy: str) -> None:
    """Each message is one or the other, but for prompts that were begun before the switch."""
    harness = Harness(make_config(roomy(), max_batched_tokens=32), policy=policy, eager=True)
    requests = random_requests(random.Random(1), 40, max_prompt=20, max_output=20)
    harness.run(requests)
    mixed = num_prefills = 0
    for message in harness.executor.submitted:
        prompts = [row for row in message.scheduled if row.num_new_tokens > 1]
        num_prefills += bool(prompts)
        mixed += 0 < len(prompts) < len(message.scheduled)
    assert num_prefills > 0
    assert mixed <= num_prefills / 3


def test_vllm_admits_without_looking_at_other_micro_batches() -> None:
    """All that fits joins the first micro-batch that asks; fused would spread it."""
    sizes = {}
    for policy in ("vllm", "fused"):
        harness = Harness(make_config(roomy(), max_batched_tokens=64), policy=policy, eager=True)
        for request in random_requests(random.Random(1), 8, max_prompt=4, max_output=20):
            harness.engine.add_request(request)
        harness.engine.step()
        sizes[policy] = len(harness.executor.submitted[0].scheduled)
    assert sizes == {"vllm": 8, "fused": 2}
