"""What a request's text may not depend on: stages, micro-batches, tiers, running ahead."""

import random

import pytest
from kit.engine import Harness, make_config, make_geometry, random_requests

REQUESTS = random_requests(random.Random(5), 14, max_prompt=24, max_output=12, shared_heads=2)
LONGEST = 9  # blocks of 4 tokens: 24 + 12 - 1 tokens
TIERS = {
    "roomy device": {"device": 400},
    "one longest request": {"device": LONGEST},
    "host": {"device": 2 * LONGEST, "host": 100},
    "tight host": {"device": LONGEST, "host": LONGEST + 2},
    "nvme": {"device": LONGEST + 3, "host": 2 * LONGEST, "nvme": 100},
}


def texts(harness: Harness) -> dict[tuple[int, int], tuple[int, ...]]:
    results = harness.run(REQUESTS, check_every=5)
    harness.settle()
    return {identity: result.token_ids for identity, result in results.items()}


@pytest.fixture(scope="module")
def reference() -> dict[tuple[int, int], tuple[int, ...]]:
    return texts(Harness(make_config(make_geometry(device=400)), eager=True))


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("num_stages", [1, 2, 8])
@pytest.mark.parametrize("run_ahead", [False, True])
def test_tiers_and_stages(
    reference: dict[tuple[int, int], tuple[int, ...]], tiers: str, num_stages: int, run_ahead: bool
) -> None:
    geometry = make_geometry(num_stages=num_stages, **TIERS[tiers])
    assert texts(Harness(make_config(geometry, run_ahead=run_ahead), seed=1)) == reference


@pytest.mark.parametrize("num_micro_batches", range(1, 9))
def test_micro_batches(
    reference: dict[tuple[int, int], tuple[int, ...]], num_micro_batches: int
) -> None:
    geometry = make_geometry(num_stages=4, device=2 * LONGEST, host=200)
    config = make_config(geometry, num_micro_batches=num_micro_batches)
    assert texts(Harness(config, seed=2)) == reference


@pytest.mark.parametrize("prefix_sharing", [False, True])
def test_prefix_sharing(
    reference: dict[tuple[int, int], tuple[int, ...]], prefix_sharing: bool
) -> None:
    config = make_config(make_geometry(device=40, host=90), prefix_sharing=prefix_sharing)
    assert texts(Harness(config, seed=3)) == reference
