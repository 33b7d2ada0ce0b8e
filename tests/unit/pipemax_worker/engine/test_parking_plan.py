"""What is parked first: as much saved for each block as possible, shared blocks once."""

import random

import pytest
from pipemax_worker.engine.parking_plan import ParkingCandidate, plan_parking, prefill_cost
from pipemax_worker.performance.batch_shape import BatchShape

BLOCK_TOKENS = 4


def linear(first: int, end: int) -> float:
    return float(end - first)


def quadratic(first: int, end: int) -> float:
    """Attention: later positions read more."""
    return float(end * end - first * first)


def candidate(request_id: int, *block_ids: int, num_tokens: int | None = None) -> ParkingCandidate:
    return ParkingCandidate(request_id, block_ids, num_tokens or len(block_ids) * BLOCK_TOKENS)


def plan(*candidates: ParkingCandidate, **changes: object) -> tuple[int, ...]:
    settings = {"present": (), "num_slots": 100, "cost": linear} | changes
    return plan_parking(candidates, block_tokens=BLOCK_TOKENS, **settings)  # type: ignore[arg-type]


def test_nothing_to_park() -> None:
    assert plan() == ()


def test_a_block_that_is_full_saves_more_than_one_that_is_not() -> None:
    assert plan(candidate(0, 10, num_tokens=1), candidate(1, 20, num_tokens=4)) == (20, 10)


def test_long_contexts_first_and_each_from_its_head() -> None:
    assert plan(candidate(0, 1), candidate(1, 2, 3, 4), cost=quadratic) == (2, 3, 4, 1)


def test_equals_in_order_of_arrival() -> None:
    assert plan(candidate(3, 30), candidate(1, 10), candidate(2, 20)) == (10, 20, 30)


def test_a_shared_head_is_copied_once() -> None:
    assert plan(candidate(0, 1, 2, 3), candidate(1, 1, 2, 4)) == (1, 2, 3, 4)


def test_once_its_head_is_there_a_request_is_cheap() -> None:
    """Alone its tail block, at the end of a long context, saves most of all."""
    shared, other = candidate(0, 1, 2, 3), candidate(1, 1, 2, 3, 4)
    alone = candidate(2, 9, 8, 7, 6)
    assert plan(shared, other, alone, cost=quadratic) == (1, 2, 3, 4, 9, 8, 7, 6)


def test_what_is_on_nvme_is_not_copied_and_counts_as_covered() -> None:
    parked, half = candidate(0, 1, 2), candidate(1, 3, 4)
    assert plan(parked, half, present={1, 2, 3}) == (4,)


def test_slots_that_do_not_suffice_hold_heads() -> None:
    assert plan(candidate(0, 1, 2), candidate(1, 3, 4), num_slots=3) == (1, 2, 3)
    assert plan(candidate(0, 1, 2), num_slots=0) == ()


@pytest.mark.parametrize("seed", range(20))
def test_every_block_once_and_each_ratio_is_the_best_of_its_moment(seed: int) -> None:
    generator = random.Random(seed)
    heads = [tuple(range(100 * head, 100 * head + generator.randint(1, 4))) for head in range(3)]
    candidates = []
    for request_id in range(12):
        own = range(1000 + 10 * request_id, 1000 + 10 * request_id + generator.randint(1, 5))
        block_ids = (*generator.choice([*heads, ()]), *own)
        missing = generator.randint(0, BLOCK_TOKENS - 1)
        candidates.append(
            candidate(request_id, *block_ids, num_tokens=4 * len(block_ids) - missing)
        )
    order = plan(*candidates, cost=quadratic)
    assert sorted(order) == sorted({b for one in candidates for b in one.block_ids})

    covered: set[int] = set()
    left = {one.request_id: one for one in candidates}
    position = 0
    while left:
        ratios = {}
        for one in left.values():
            missing_ids = [b for b in one.block_ids if b not in covered]
            first = one.block_ids.index(missing_ids[0]) * BLOCK_TOKENS
            ratios[one.request_id] = quadratic(first, one.num_computed_tokens) / len(missing_ids)
        best = max(ratios.values())
        taken = next(
            one
            for one in left.values()
            if ratios[one.request_id] == best
            and set(order[position : position + len(one.block_ids)]).issuperset(
                b for b in one.block_ids if b not in covered
            )
        )
        position += len([b for b in taken.block_ids if b not in covered])
        covered.update(taken.block_ids)
        left = {
            request_id: one
            for request_id, one in left.items()
            if not covered.issuperset(one.block_ids)
        }


def test_the_cost_of_tokens_is_a_share_of_full_steps() -> None:
    def predict(shape: BatchShape) -> float:
        return 1.0 + 0.001 * shape.num_kv_tokens

    cost = prefill_cost(predict, token_target=100)
    assert cost(0, 100) == pytest.approx(1.0 + 0.001 * 150)
    assert cost(0, 1) < 0.02, "a token alone is no step of its own"
    assert cost(900, 1000) > cost(0, 100)
