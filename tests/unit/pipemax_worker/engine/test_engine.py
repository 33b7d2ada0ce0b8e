import re

import msgspec
import pytest
from kit.engine import Harness, make_config, make_geometry, make_request
from kit.prefix_model import STOP_TOKEN
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import SampledToken, ScheduledRequest, StageReport
from pipemax_worker.contract.request import FinishReason
from pipemax_worker.errors import InvariantError, KVTierError, RequestError, StageDiedError


class StopAfter:
    """A stop checker that finds its string in the n-th token."""

    def __init__(self, num_tokens: int) -> None:
        self.num_left = num_tokens

    def append(self, token_id: int) -> bool:
        self.num_left -= 1
        return self.num_left == 0


class Broken:
    def append(self, token_id: int) -> bool:
        raise RequestError("undecodable", "these tokens are no text")


def make_harness(**overrides: object) -> Harness:
    settings = {"num_stages": 2, "device": 40} | overrides
    run_ahead = bool(settings.pop("run_ahead", False))
    return Harness(make_config(make_geometry(**settings), run_ahead=run_ahead))


def test_a_text_ends_at_its_length() -> None:
    harness = make_harness()
    request = make_request(7, [1, 2, 3, 4, 5], 6, stop_token_ids=())
    finished = harness.run([request])[7, 0]
    assert finished.key == request.key
    assert finished.finish_reason is FinishReason.LENGTH
    assert finished.token_ids == harness.expected(request)
    assert len(finished.token_ids) == 6
    assert finished.num_prompt_tokens == 5


@pytest.mark.parametrize("run_ahead", [False, True])
def test_a_stop_token_ends_a_text_and_is_no_part_of_it(run_ahead: bool) -> None:
    harness = make_harness(run_ahead=run_ahead)
    harness.executor.stop_probability = 0.2
    requests = [make_request(offset, [offset + 1], 30) for offset in range(12)]
    results = harness.run(requests)
    for request in requests:
        finished = results[request.key.offset, 0]
        assert finished.token_ids == harness.expected(request)
        assert STOP_TOKEN not in finished.token_ids
        stopped = len(finished.token_ids) < 30
        assert finished.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
    assert any(result.finish_reason is FinishReason.STOP for result in results.values())
    harness.settle()


@pytest.mark.parametrize("run_ahead", [False, True])
def test_a_stop_string_ends_a_text_with_its_token(run_ahead: bool) -> None:
    harness = make_harness(run_ahead=run_ahead)
    request = make_request(0, [1, 2, 3], 20, stop_token_ids=())
    harness.engine.add_request(request, StopAfter(4))
    finished = harness.run()[0, 0]
    assert finished.finish_reason is FinishReason.STOP
    assert finished.token_ids == harness.expected(request)[:4]
    harness.settle()


def test_a_checker_that_fails_fails_its_request_alone() -> None:
    harness = make_harness()
    harness.engine.add_request(make_request(0, [1, 2, 3], 5, stop_token_ids=()), Broken())
    other = make_request(1, [4, 5], 5, stop_token_ids=())
    results = harness.run([other])
    assert results[0, 0].finish_reason is FinishReason.ERROR
    assert results[0, 0].error_code == "undecodable"
    assert results[0, 0].error_message == "these tokens are no text"
    assert results[1, 0].token_ids == harness.expected(other)
    harness.settle()


@pytest.mark.parametrize("run_ahead", [False, True])
def test_a_grammar_that_fails_on_the_stage_fails_its_request_alone(
    run_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness(run_ahead=run_ahead)
    sample, num_sampled = harness.executor._sample, [0, 0]

    def failing(row: ScheduledRequest) -> SampledToken:
        token = sample(row)
        num_sampled[row.request_id] += 1
        if row.request_id == 0 and num_sampled[0] >= 3:
            return msgspec.structs.replace(token, error="the lexer is full")
        return token

    monkeypatch.setattr(harness.executor, "_sample", failing)
    requests = [make_request(offset, [offset + 1], 6, stop_token_ids=()) for offset in range(2)]
    results = harness.run(requests)
    assert results[0, 0].finish_reason is FinishReason.ERROR
    assert results[0, 0].error_code == "grammar_failed"
    assert results[0, 0].error_message == "the lexer is full"
    assert results[0, 0].token_ids == harness.expected(requests[0])[:2]
    assert results[1, 0].token_ids == harness.expected(requests[1])
    harness.settle()


def test_logprobs_come_with_their_tokens() -> None:
    harness = make_harness()
    harness.executor.stop_probability = 0.2
    request = make_request(0, [3, 1], 12, logprobs=0)
    finished = harness.run([request, make_request(1, [3, 2], 4)])
    logprobs = finished[0, 0].logprobs
    assert logprobs is not None
    assert tuple(entry.token_id for entry in logprobs) == finished[0, 0].token_ids
    assert finished[1, 0].logprobs is None


def test_a_dead_stage_ends_the_run_with_the_stages_own_words() -> None:
    harness = make_harness()
    harness.engine.add_request(make_request(0, [1, 2, 3], 20, stop_token_ids=()))
    harness.engine.step()
    harness.executor.kill(1, "KVTierFailed", "/mnt/nvme is full")
    with pytest.raises(KVTierError, match="/mnt/nvme is full"):
        harness.run()
    assert [request.key.offset for request in harness.engine.unfinished_requests()] == [0]


def test_a_stage_that_died_silently_is_named() -> None:
    harness = make_harness()
    harness.engine.add_request(make_request(0, [1, 2, 3], 20, stop_token_ids=()))
    harness.executor.kill(1)
    with pytest.raises(StageDiedError, match=r"stage 1 ended with exit code -9.*-1"):
        harness.engine.step()


@pytest.mark.parametrize(
    ("run_ahead", "depth", "expected"), [(False, 64, 4), (True, 64, 5), (True, 3, 3)]
)
def test_the_pipeline_is_filled_and_not_overfilled(
    run_ahead: bool, depth: int, expected: int
) -> None:
    geometry = make_geometry(num_stages=4, device=400)
    config = make_config(geometry, run_ahead=run_ahead, feedback_depth=depth)
    harness = Harness(config)
    for offset in range(16):
        harness.engine.add_request(make_request(offset, [1, 2, 3], 20, stop_token_ids=()))
    in_flight = 0
    while harness.engine.has_unfinished_requests:
        while len(harness.engine.in_flight) < config.max_in_flight:
            plan = harness.scheduler.schedule(0.0)
            if plan is None:
                break
            harness.executor.submit(plan.stage_input)
            harness.engine.in_flight.append(plan)
        in_flight = max(in_flight, len(harness.engine.in_flight))
        harness.engine.step()
    assert in_flight == expected


def test_running_ahead_takes_the_token_from_the_ring() -> None:
    harness = make_harness(run_ahead=True, num_stages=1)
    request = make_request(0, [1, 2, 3], 8, stop_token_ids=())
    assert harness.run([request])[0, 0].token_ids == harness.expected(request)
    rows = [row for message in harness.executor.submitted for row in message.scheduled]
    assert sum(row.token_ids is None for row in rows) >= 3
    assert len(rows) == 8  # none beyond max_tokens


def test_a_request_is_introduced_once_and_named_when_it_is_over() -> None:
    harness = make_harness()
    harness.run([make_request(offset, [1, 2, 3], 3) for offset in range(5)])
    harness.run([make_request(9, [4], 2)])
    messages = harness.executor.submitted
    introduced = [new.request_id for message in messages for new in message.new_requests]
    assert introduced == sorted(set(introduced)) == list(range(6))
    finished = [request_id for message in messages for request_id in message.finished_ids]
    assert sorted(finished) == list(range(5))


def test_the_statistics_add_up() -> None:
    geometry = make_geometry(num_stages=2, device=60, host=100)
    harness = Harness(make_config(geometry, prefix_sharing=False))
    requests = [make_request(offset, range(1, 10), 6, stop_token_ids=()) for offset in range(8)]
    harness.run(requests)
    harness.settle()
    statistics = harness.engine.statistics
    assert statistics.num_prompt_tokens == 8 * 9
    assert statistics.num_generated_tokens == 8 * 6
    assert statistics.num_batched_tokens == 8 * (9 + 5)
    assert statistics.num_recomputed_tokens == statistics.num_cached_tokens == 0
    assert statistics.num_steps == len(harness.executor.submitted)
    assert (statistics.num_waiting, statistics.num_running, statistics.num_preempted) == (0, 0, 0)
    assert all(stage.compute_seconds > 0 for stage in statistics.stages)
    (stores,) = statistics.copies
    assert (stores.source, stores.target) == (Tier.DEVICE, Tier.HOST)
    assert stores.num_bytes == 2 * 4096 * 8 * 3  # stages, bytes, requests, full blocks
    device = next(entry for entry in statistics.occupancy if entry.tier is Tier.DEVICE)
    assert (device.num_used, device.num_cached, device.num_free) == (0, 0, 60)
    assert statistics.estimator_error_ratio > 0.0


def test_every_message_with_rows_leaves_a_record() -> None:
    harness = make_harness()
    prompts = [range(first, first + 9) for first in (1, 2, 3)]
    harness.run([make_request(first[0], first, 4, stop_token_ids=()) for first in prompts])
    harness.settle()
    records = harness.engine.take_step_records()
    with_rows = [message for message in harness.executor.submitted if message.scheduled]
    assert sorted(record.sequence for record in records) == [m.sequence for m in with_rows]
    assert sum(record.num_tokens for record in records) == 3 * (9 + 3)
    assert sum(record.num_prefill_tokens for record in records) == 3 * 9
    assert all(record.seconds > 0 for record in records)
    assert harness.engine.take_step_records() == []


def test_an_output_out_of_order_is_a_bug() -> None:
    harness = make_harness()
    harness.engine.add_request(make_request(0, [1, 2], 5))
    plan = harness.scheduler.schedule(0.0)
    assert plan is not None
    with pytest.raises(InvariantError, match="no token came back for request 0"):
        harness.scheduler.update_from_output(plan, {})


def test_an_idle_engine_does_nothing() -> None:
    harness = make_harness()
    assert harness.engine.step() == []
    assert harness.executor.submitted == []
    assert not harness.engine.has_unfinished_requests


@pytest.mark.parametrize("run_ahead", [False, True])
def test_another_engine_takes_over_the_stages(run_ahead: bool) -> None:
    """With another policy and without a host tier: numbers go on, or stages would take one request
    for another."""
    first = make_harness(host=60, run_ahead=run_ahead)
    first.run([make_request(offset, [offset + 1] * 9, 12) for offset in range(8)])
    second = make_harness(host=0, run_ahead=run_ahead)
    second.executor = first.executor
    second.engine = first.engine.succeed(second.scheduler, first.clock.now() + 1)
    requests = [make_request(offset, [offset + 2] * 9, 12) for offset in range(8)]
    results = second.run(requests)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == second.expected(request)
    sequences = [message.sequence for message in first.executor.submitted]
    assert sequences == list(range(len(sequences)))
    second.settle()


def test_no_engine_takes_over_unfinished_requests() -> None:
    harness = make_harness()
    harness.engine.add_request(make_request(0, [1], 5))
    with pytest.raises(InvariantError, match="only when all its requests have"):
        harness.engine.succeed(make_harness().scheduler, harness.clock.now() + 1)


def test_an_idle_report_teaches_nothing() -> None:
    harness = make_harness()
    before = harness.estimator.error_ratio
    harness.scheduler.update_from_report(StageReport(0, 0, 0, 0.0, 0.0, 0.0), None)
    assert harness.estimator.error_ratio == before


@pytest.mark.parametrize(
    ("device", "host", "limit"), [(4, 0, 4), (4, 100, 4), (100, 3, 3)], ids=str
)
def test_a_request_that_can_never_run_is_refused_with_the_numbers(
    device: int, host: int, limit: int
) -> None:
    harness = make_harness(device=device, host=host)
    fits = make_request(0, range(1, 2 + 4 * (limit - 1)), 4)
    harness.engine.add_request(fits)
    too_long = make_request(1, range(1, 2 + 4 * (limit - 1)), 5)
    message = f"need {limit + 1} blocks of 4 tokens; one request can have {limit} "
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        harness.engine.add_request(too_long)
    assert caught.value.code == "kv_cache_exceeded"
    assert harness.run()[0, 0].token_ids == harness.expected(fits)


def test_an_empty_prompt_and_no_output_are_refused() -> None:
    harness = make_harness()
    with pytest.raises(RequestError, match="the prompt has no tokens"):
        harness.engine.add_request(make_request(0, [], 5))
    with pytest.raises(RequestError, match="max_tokens is 0"):
        harness.engine.add_request(make_request(0, [1], 0))
