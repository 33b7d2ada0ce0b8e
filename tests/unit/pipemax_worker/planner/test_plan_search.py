import pytest
from kit.simulations import make_settings
from pipemax_worker.planner.limits import knee_tokens
from pipemax_worker.planner.plan_search import (
    EngineChoice,
    axes_of,
    enough_requests,
    refine,
    step_sizes,
)
from pipemax_worker.planner.workload import Workload


def test_ours_is_tried_along_three_axes_and_others_along_one() -> None:
    settings = make_settings(host=100)
    axes = dict(axes_of(EngineChoice("fused"), settings))
    assert axes["num_micro_batches"] == (5,)
    assert axes["has_host_tier"] == (False,)
    assert list(dict(axes_of(EngineChoice("vllm"), settings))) == ["max_batched_tokens"]


def test_without_a_host_tier_there_is_nothing_to_turn_off() -> None:
    assert "has_host_tier" not in dict(axes_of(EngineChoice("fused"), make_settings()))


def test_step_sizes_lie_about_the_knee() -> None:
    settings = make_settings()
    knee, sizes = knee_tokens(settings), step_sizes(settings)
    assert sizes == tuple(sorted(sizes))
    assert sizes[0] <= max(16, knee)
    assert any(knee <= size <= 2 * knee + 32 for size in sizes)
    assert sizes[-1] == 2048


def test_refining_goes_down_one_axis_after_the_other() -> None:
    costs = {(None, None): 10.0, (64, None): 8.0, (128, None): 9.0, (64, 5): 7.0}
    asked = []

    def try_out(choice: EngineChoice) -> float | None:
        asked.append((choice.max_batched_tokens, choice.num_micro_batches))
        return costs.get(asked[-1])

    axes = (("max_batched_tokens", (64, 128)), ("num_micro_batches", (5,)))
    best = refine(EngineChoice("fused"), axes, try_out)
    assert (best.max_batched_tokens, best.num_micro_batches) == (64, 5)
    assert asked == [(None, None), (64, None), (128, None), (64, 5)]


def test_what_cannot_be_is_not_chosen() -> None:
    start = EngineChoice("fused")
    best = refine(start, (("max_batched_tokens", (64,)),), lambda _: None)
    assert best == start
    found = refine(
        start, (("max_batched_tokens", (64,)),), lambda c: 1.0 if c.max_batched_tokens else None
    )
    assert found.max_batched_tokens == 64


@pytest.mark.parametrize(("device", "expected"), [(10, 500), (3000, 900), (50_000, 3000)])
def test_enough_requests_fill_the_gpus_three_times(device: int, expected: int) -> None:
    """12,000 positions hold 300 requests of 30 in and 20 out, 40 on average."""
    work = Workload(((30, 20),) * 10)
    assert enough_requests(make_settings(device=device), work) == expected
