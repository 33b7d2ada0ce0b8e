import json

import msgspec
import pytest
from kit.simulations import MODEL, make_settings
from pipemax_worker.contract.model_config import parse_model_config
from pipemax_worker.engine.policies import WITHOUT_HOST_TIER
from pipemax_worker.errors import KVTierError
from pipemax_worker.planner.cost import node_watts, token_cost
from pipemax_worker.planner.limits import derive_time_shares, describe_limit, knee_tokens
from pipemax_worker.planner.plan import Planner, PlanOrder, PlanReport, Prices, job_seconds
from pipemax_worker.planner.plan_search import EngineChoice
from pipemax_worker.planner.plan_text import describe_plan, describe_seconds
from pipemax_worker.planner.simulation import SimulationSettings, simulate
from pipemax_worker.planner.workload import Workload

WORK = Workload(tuple((20, 10 + n % 5) for n in range(80)))
SHORT = Workload(((5, 30),) * 4)


def derive(choice: EngineChoice) -> SimulationSettings:
    """Steps of 4,096 tokens leave no room for KV; 8-bit KV takes half of it."""
    has_host = choice.has_host_tier and choice.policy not in WITHOUT_HOST_TIER
    num_batched = min(choice.max_batched_tokens or 32, 64)
    if choice.policy == "tdpipe":
        raise KVTierError("no room for KV")
    is_narrow = choice.kv_dtype == "fp8_e4m3"
    settings = make_settings(
        policy=choice.policy,
        device=400 if is_narrow else 200,
        host=400 if has_host else 0,
        look_ahead=8,
        max_batched_tokens=num_batched,
        num_micro_batches=choice.num_micro_batches or 4,
    )
    geometry = msgspec.structs.replace(
        settings.geometry, kv_dtype=choice.kv_dtype or settings.geometry.kv_dtype
    )
    scheduler = msgspec.structs.replace(settings.scheduler, geometry=geometry)
    return msgspec.structs.replace(settings, scheduler=scheduler)


def order(*policies: str) -> PlanOrder:
    return PlanOrder(WORK, policies, Prices(1.0), num_sampled=40, num_requests=800)


@pytest.fixture(scope="module")
def report() -> PlanReport:
    return Planner(derive, order("fused", "vllm", "tdpipe")).plan()


def test_a_plan_has_a_row_for_each_policy_that_can_run(report: PlanReport) -> None:
    assert [row.policy for row in report.rows] == ["fused", "vllm"]
    assert report.refused == (("tdpipe", "no room for KV"),)
    assert {row.result.num_requests for row in report.rows} == {80}
    assert report.best in report.rows


def test_settings_are_tried_on_a_sample_and_the_best_runs_whole(report: PlanReport) -> None:
    ours = [row for row in report.tried if row.policy == "fused"]
    assert {row.result.num_requests for row in ours} == {40}
    assert {row.has_host_tier for row in ours} == {True, False}
    assert {row.num_micro_batches for row in ours} == {4, 5}
    best = min(ours, key=lambda row: row.result.seconds)
    assert report.rows[0].choice == best.choice


def test_narrow_kv_is_offered_and_not_chosen(report: PlanReport) -> None:
    assert report.fp8 is not None
    assert report.fp8.kv_dtype == "fp8_e4m3"
    assert report.best.kv_dtype == "bfloat16"
    assert "which rounds" in "\n".join(describe_plan(report))


def test_where_nobody_can_run_the_reason_is_raised() -> None:
    with pytest.raises(KVTierError, match="no room for KV"):
        Planner(derive, order("tdpipe")).plan()


def test_a_larger_job_goes_on_at_the_steady_rate(report: PlanReport) -> None:
    result = report.rows[0].result
    long = msgspec.structs.replace(result, steady_seconds=result.seconds * 0.6)
    more = 720 * result.num_output_tokens / 80 / long.steady_output_tokens_per_second
    assert job_seconds(long, 800) == pytest.approx(result.seconds + more)
    assert job_seconds(result, 40) == pytest.approx(result.seconds / 2)


def test_without_a_steady_half_all_goes_at_the_whole_rate(report: PlanReport) -> None:
    short = msgspec.structs.replace(report.rows[0].result, steady_seconds=0.0)
    assert job_seconds(short, 800) == pytest.approx(10 * short.seconds)


@pytest.mark.parametrize("policy", ["fused", "pipemax", "vllm"])
def test_shares_of_the_time_make_up_the_whole(policy: str) -> None:
    settings = make_settings(policy=policy, device=60, host=0 if policy == "vllm" else 400)
    shares = derive_time_shares(settings, WORK, simulate(settings, WORK))
    assert shares is not None
    parts = msgspec.structs.astuple(shares)[:6]
    assert sum(parts) == pytest.approx(1.0)
    assert min(parts) >= -1e-9
    assert shares.nvme == 0.0
    assert (shares.host_link > 0.0) == (policy != "vllm")


def test_experts_that_are_touched_are_weights_that_are_read() -> None:
    settings = make_settings()
    raw = MODEL | {"architectures": ["MixtralForCausalLM"]}
    model = parse_model_config(raw | {"num_local_experts": 8, "num_experts_per_tok": 2}, "config")
    mixed = msgspec.structs.replace(settings, model=model)
    shares = derive_time_shares(mixed, WORK, simulate(mixed, WORK))
    assert shares is not None
    assert sum(msgspec.structs.astuple(shares)[:6]) == pytest.approx(1.0)
    assert knee_tokens(mixed) > 2 * knee_tokens(settings)


def test_rivals_are_planned_beside_policies() -> None:
    report = Planner(derive, order("vllm", "vllm-tp", "seesaw")).plan()
    assert [row.policy for row in report.rows] == ["vllm", "vllm-tp", "seesaw"]
    assert [row.shares is None for row in report.rows] == [False, True, True]
    assert "seesaw: limited by" in "\n".join(describe_plan(report))


def test_shares_of_another_system_are_not_guessed(report: PlanReport) -> None:
    settings = msgspec.structs.replace(make_settings(), policy="vllm-tp")
    assert derive_time_shares(settings, WORK, report.rows[0].result) is None


def test_the_text_names_the_best_and_what_limits_it(report: PlanReport) -> None:
    text = "\n".join(describe_plan(report))
    assert "nothing was measured here" in text
    assert f"best: policy {report.best.policy}, maxBatchedTokens" in text
    assert "vllm: limited by" in text
    assert "tdpipe: cannot run there: no room for KV" in text
    tables = [line for line in text.splitlines() if line.endswith(("%", "out", "busy)"))]
    assert tables
    assert max(map(len, tables)) <= 80


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
    assert "its end" in describe_limit(settings, SHORT, simulate(settings, SHORT))


def test_a_slow_link_limits_a_forced_rotation() -> None:
    settings = make_settings(
        policy="pipemax", device=30, host=400, look_ahead=8, link_bytes_per_second=3e5
    )
    result = simulate(settings, WORK)
    assert result.statistics.copies
    assert describe_limit(settings, WORK, result)


@pytest.mark.parametrize(("seconds", "text"), [(1.25, "1.2 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_times_are_told_in_their_unit(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
