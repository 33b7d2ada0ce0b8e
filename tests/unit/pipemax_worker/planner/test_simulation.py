import msgspec
import pytest
from kit.simulations import make_settings
from pipemax_worker.engine.policies import POLICIES
from pipemax_worker.errors import RequestError
from pipemax_worker.planner.simulation import Simulation, simulate
from pipemax_worker.planner.workload import Workload, draw_workload

WORK = Workload(tuple((3 + 5 * (n % 7), 4 + 3 * (n % 11)) for n in range(60)))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_finishes_the_work_within_bounds(policy: str) -> None:
    """No run beats its arithmetic: every step reads the weights at least."""
    result = simulate(make_settings(policy=policy), WORK)
    statistics = result.statistics
    assert result.num_requests == 60
    assert statistics.num_generated_tokens == WORK.num_output_tokens
    assert statistics.num_prompt_tokens == WORK.num_prompt_tokens
    slowest = max(stage.compute_seconds for stage in statistics.stages)
    assert result.num_steps * 0.001 < slowest < result.seconds


def test_two_runs_are_the_same() -> None:
    assert simulate(make_settings(), WORK) == simulate(make_settings(), WORK)


def test_nothing_is_left_behind() -> None:
    simulation = Simulation(make_settings(host=400, device=60), WORK)
    simulation.run()
    while simulation.engine.in_flight or simulation.manager.num_pending_copies:
        simulation.engine.step()
    assert simulation.manager.is_idle
    simulation.manager.check_integrity()


def test_hidden_lengths_are_kept_and_not_told() -> None:
    hidden = msgspec.structs.replace(WORK, hidden_max_tokens=100)
    result = simulate(make_settings(), hidden)
    # The driver runs ahead: a row may be scheduled before its text is known to have ended.
    assert result.statistics.num_generated_tokens == WORK.num_output_tokens


def test_the_steady_part_lies_within_the_run() -> None:
    result = simulate(make_settings(look_ahead=8), WORK)
    assert 0 < result.steady_seconds < result.seconds
    assert 0 < result.steady_output_tokens < result.num_output_tokens
    assert result.steady_output_tokens_per_second > result.output_tokens_per_second


def test_rotation_holds_more_requests_than_the_device() -> None:
    """A tier in host memory pays where the device holds little and the link is fast."""
    alone = simulate(make_settings(device=40), WORK)
    rotated = simulate(make_settings(device=40, host=400, link_bytes_per_second=1e9), WORK)
    assert rotated.statistics.copies
    assert rotated.mean_batch_tokens > 1.1 * alone.mean_batch_tokens


def test_a_request_that_can_never_run_is_refused() -> None:
    with pytest.raises(RequestError, match="need 251 blocks"):
        simulate(make_settings(), Workload(((1000, 5),)))


def test_w1_is_drawn_as_its_tool_draws_it() -> None:
    work = draw_workload("w1", 1000)
    assert (work.num_prompt_tokens, work.num_output_tokens) == (482_585, 490_348)


@pytest.mark.parametrize(("name", "means"), [("sharegpt", (344, 237)), ("longbench", (2687, 102))])
def test_named_workloads_have_the_papers_means(name: str, means: tuple[int, int]) -> None:
    work = draw_workload(name, 2000)
    assert work.num_prompt_tokens / 2000 == pytest.approx(means[0], rel=0.01)
    assert work.num_output_tokens / 2000 == pytest.approx(means[1], rel=0.01)
