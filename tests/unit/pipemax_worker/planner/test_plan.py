import json

import pytest
from kit.simulations import make_settings
from pipemax_worker.planner.cost import node_watts, token_cost
from pipemax_worker.planner.limits import describe_limit
from pipemax_worker.planner.plan import PlanReport, Prices, job_seconds, plan_policies, variants
from pipemax_worker.planner.plan_text import describe_plan, describe_seconds
from pipemax_worker.planner.simulation import simulate
from pipemax_worker.planner.workload import Workload

WORK = Workload(tuple((20, 10 + n % 5) for n in range(80)))


@pytest.fixture(scope="module")
def report() -> PlanReport:
    settings = make_settings(host=400, look_ahead=8)
    return plan_policies(settings, WORK, ["fused", "vllm"], Prices(1.0), 800)


def test_a_plan_has_a_row_for_each_policy_at_its_best(report: PlanReport) -> None:
    assert [row.policy for row in report.rows] == ["fused", "vllm"]
    ours = [row for row in report.tried if row.policy == "fused"]
    rates = [row.result.output_tokens_per_second for row in ours]
    assert report.rows[0].result.output_tokens_per_second == max(rates)
    assert {row.has_host_tier for row in ours} == {True, False}


def test_rivals_without_offload_get_no_host_tier() -> None:
    settings = make_settings(host=400)
    assert [v.geometry.num_host_slots for v in variants(settings, "vllm")] == [0]
    assert [v.geometry.num_host_slots for v in variants(settings, "pipemax")] == [400]


def test_a_larger_job_goes_on_at_the_steady_rate(report: PlanReport) -> None:
    result = report.rows[0].result
    more = 720 * result.num_output_tokens / 80 / result.steady_output_tokens_per_second
    assert job_seconds(result, 800) == pytest.approx(result.seconds + more)
    assert job_seconds(result, 40) == pytest.approx(result.seconds / 2)


def test_the_text_names_the_best_and_what_limits_it(report: PlanReport) -> None:
    text = "\n".join(describe_plan(report))
    assert "nothing was measured here" in text
    assert f"best: policy {report.best.policy}, maxBatchedTokens" in text
    assert "vllm: limited by" in text


def test_a_plan_is_json(report: PlanReport) -> None:
    parsed = json.loads(report.as_json())
    assert parsed["rows"][0]["policy"] == "fused"
    assert parsed["rows"][0]["result"]["num_requests"] == 80


def test_power_lies_between_idle_and_full() -> None:
    node = make_settings().node
    assert node_watts(node, (0.0,) * 4) == 200 + 4 * 100
    assert node_watts(node, (1.0,) * 4) == 200 + 4 * 400


def test_costs_are_rent_and_electricity() -> None:
    settings = make_settings()
    result = simulate(settings, WORK)
    rent = 4 * result.seconds / 3600
    kwh = node_watts(settings.node, result.busy_ratios) * result.seconds / 3.6e6
    millions = WORK.num_output_tokens / 1e6
    assert token_cost(settings.node, result, 1.0, 0.0).dollars_per_million == pytest.approx(
        rent / millions
    )
    cost = token_cost(settings.node, result, 1.0, 0.3)
    assert cost.dollars_per_million == pytest.approx((rent + 0.3 * kwh) / millions)
    assert cost.kwh_per_million == pytest.approx(kwh / millions)


def test_a_short_job_is_limited_by_its_end() -> None:
    settings = make_settings()
    assert "its end" in describe_limit(settings, simulate(settings, Workload(((5, 30),) * 4)))


def test_a_slow_link_limits_a_forced_rotation() -> None:
    settings = make_settings(
        policy="pipemax", device=30, host=400, look_ahead=8, link_bytes_per_second=3e5
    )
    result = simulate(settings, WORK)
    assert result.statistics.copies
    assert describe_limit(settings, result)


@pytest.mark.parametrize(("seconds", "text"), [(1.25, "1.2 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_times_are_told_in_their_unit(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
