"""An engine over pipelines that die: who kills them is found, and all others get their texts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from kit.engine import make_config, make_geometry, make_request, random_requests
from kit.poison import Deadly, PoisonedEngine, poison_prompts
from pipemax_worker.contract.request import FinishedRequest, FinishReason, Request, RequestProgress
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.errors import InvariantError, StageDiedError
from pipemax_worker.runner.held_request import STAGE_FAILURE_CODE
from pipemax_worker.runner.total_statistics import COUNTERS

POISON = 999


def config_for(num_stages: int = 2, **options: int) -> SchedulerConfig:
    settings = {"max_batched_tokens": 2048, "max_num_requests": 256} | options
    return make_config(make_geometry(num_stages=num_stages, device=4096), **settings)


def requests_of(number: int, seed: int = 3) -> list[Request]:
    return random_requests(random.Random(seed), number, max_prompt=12, max_output=10)


def has_poison(text: Sequence[int]) -> bool:
    return POISON in text


def check(
    engine: PoisonedEngine,
    requests: Sequence[Request],
    results: dict[tuple[int, int], FinishedRequest],
    poisons: set[int],
) -> None:
    """Each request has one result: the poisons an error, all others their right text."""
    assert results.keys() == {(one.key.offset, one.choice) for one in requests}
    for request in requests:
        result = results[request.key.offset, request.choice]
        if request.key.offset in poisons:
            assert result.finish_reason is FinishReason.ERROR
            assert result.error_code == STAGE_FAILURE_CODE
            assert "fell over" in (result.error_message or "")
        else:
            assert result.token_ids == engine.harness.expected(request)


@pytest.mark.parametrize("num_stages", [1, 2, 4])
@pytest.mark.parametrize("num_requests", [2, 3, 16, 100, 256])
def test_one_poison_costs_log2_of_n_plus_1_restarts(num_requests: int, num_stages: int) -> None:
    generator = random.Random(num_requests)
    for seed in range(3):
        poison = generator.randrange(num_requests)
        requests = poison_prompts(requests_of(num_requests), [poison], POISON)
        engine = PoisonedEngine(config_for(num_stages), has_poison, seed=100 * seed)
        check(engine, requests, engine.run(requests), {poison})
        assert engine.engine.num_restarts <= math.log2(num_requests) + 1
        assert engine.engine.num_restarts == engine.num_opened - 1


def test_a_poison_that_is_alone_costs_one_restart() -> None:
    requests = poison_prompts(requests_of(1), [0], POISON)
    engine = PoisonedEngine(config_for(), has_poison)
    check(engine, requests, engine.run(requests), {0})
    assert engine.engine.num_restarts == 1, "with nothing left to run nothing is started"


@pytest.mark.parametrize("num_stages", [1, 3])
def test_several_poisons_and_few_rows_at_a_time(num_stages: int) -> None:
    poisons = {3, 4, 5, 40, 41, 77}
    requests = poison_prompts(requests_of(90), sorted(poisons), POISON)
    config = config_for(num_stages, max_num_requests=8, max_batched_tokens=64)
    engine = PoisonedEngine(config, has_poison)
    check(engine, requests, engine.run(requests), poisons)
    in_flight = 8 * num_stages
    assert engine.engine.num_restarts <= len(poisons) * (math.log2(in_flight) + 1)


def deadly_from(position: int, poisons: set[int], requests: Sequence[Request]) -> Deadly:
    """Texts of ``poisons`` kill with the token at ``position`` after their prompt."""
    prompts = {one.prompt_token_ids: one.key.offset in poisons for one in requests}
    lengths = sorted({len(prompt) for prompt in prompts})

    def is_deadly(text: Sequence[int]) -> bool:
        for length in lengths:
            if len(text) >= length + position and prompts.get(tuple(text[:length])):
                return True
        return False

    return is_deadly


@pytest.mark.parametrize("position", [1, 4, 8])
@pytest.mark.parametrize("loses_reports", [False, True])
def test_poisons_that_kill_at_a_later_token(position: int, loses_reports: bool) -> None:
    requests = [make_request(i, (i // 49 + 1, i % 49 + 1, 7), 6 + i % 5) for i in range(60)]
    poisons = {one for one in (2, 29, 30, 58) if requests[one].sampling.max_tokens > position}
    assert poisons
    config = config_for(2, max_num_requests=16)
    is_deadly = deadly_from(position, poisons, requests)
    engine = PoisonedEngine(config, is_deadly, loses_reports=loses_reports)
    check(engine, requests, engine.run(requests), poisons)
    # A report that is lost makes more suspects, and may make wrong ones: a cycle in vain.
    in_flight = 2 * 16
    assert engine.engine.num_restarts <= len(poisons) * 2 * (math.log2(in_flight) + 1)


def test_what_was_generated_is_not_generated_again() -> None:
    requests = [make_request(i, (i + 1, 7), 8) for i in range(16)]
    engine = PoisonedEngine(config_for(1), deadly_from(6, {5}, requests))
    check(engine, requests, engine.run(requests), {5})
    statistics = engine.engine.statistics
    num_needed = sum(len(engine.harness.expected(one)) for one in requests)
    assert statistics.num_generated_tokens <= num_needed
    assert statistics.num_recomputed_tokens > 0


class DiesOnce:
    """Kills at the ``number``-th text that is looked at, and never again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.num_seen = 0

    def __call__(self, text: Sequence[int]) -> bool:
        self.num_seen += 1
        return self.num_seen == self.number


@pytest.mark.parametrize("number", [1, 30, 200])
@pytest.mark.parametrize("exit_code", [-9, -11, 1])
def test_a_death_that_does_not_repeat_costs_one_restart(number: int, exit_code: int) -> None:
    requests = requests_of(100)
    engine = PoisonedEngine(config_for(), DiesOnce(number), exit_code=exit_code)
    check(engine, requests, engine.run(requests), set())
    assert engine.engine.num_restarts == 1


def test_choices_of_a_line_fail_together() -> None:
    lines = requests_of(12)
    requests = [
        Request(one.key, choice, one.prompt_token_ids, one.sampling)
        for one in lines
        for choice in range(3)
    ]
    requests = poison_prompts(requests, [4], POISON)
    engine = PoisonedEngine(config_for(), has_poison)
    check(engine, requests, engine.run(requests), {4})
    assert engine.engine.num_restarts <= math.log2(12) + 1, "of the lines, not of the choices"


def test_a_broken_machine_is_told_from_poison_and_nobody_is_given_up() -> None:
    engine = PoisonedEngine(config_for(), lambda _: True)
    with pytest.raises(StageDiedError, match="3 requests in a row killed it, each running alone"):
        engine.run(requests_of(40))
    assert engine.engine.has_unfinished_requests
    assert engine.num_open == 0


def test_a_machine_that_breaks_later_keeps_what_was_finished() -> None:
    requests = requests_of(40)
    engine = PoisonedEngine(config_for(1, max_num_requests=8), DiesOnce(-1))
    for request in requests:
        engine.engine.add_request(request)
    finished: list[FinishedRequest] = []
    while not finished:
        finished += engine.engine.step()
    engine.is_deadly = lambda _: True
    with pytest.raises(StageDiedError):
        run_for_ever(engine, finished)
    assert all(one.finish_reason is not FinishReason.ERROR for one in finished)
    left = {one.key.offset for one in engine.engine.unfinished_requests()}
    assert not left & {one.key.offset for one in finished}


def run_for_ever(engine: PoisonedEngine, finished: list[FinishedRequest]) -> None:
    while True:
        finished += engine.engine.step()


def test_new_requests_wait_while_others_are_on_trial() -> None:
    first = poison_prompts(requests_of(8), [0], POISON)
    later = [make_request(100 + i, (5, i + 1), 3) for i in range(8)]
    engine = PoisonedEngine(config_for(), has_poison)
    for request in first:
        engine.engine.add_request(request)
    results = []
    while engine.engine.num_restarts == 0:
        results += engine.engine.step()
    for request in later:
        engine.engine.add_request(request)
    assert engine.engine.num_waiting >= len(later)
    on_trial = {one.key.offset for one in engine.pipeline.session.engine.unfinished_requests()}
    assert on_trial <= set(range(4)), "one half of the first, and nobody beside them"
    found = engine.run() | {(one.key.offset, one.choice): one for one in results}
    check(engine, [*first, *later], found, {0})


def test_counters_never_go_back_and_state_is_the_present_one() -> None:
    requests = poison_prompts(requests_of(64), [20], POISON)
    engine = PoisonedEngine(config_for(2), has_poison)
    engine.run(requests)
    for before, after in zip(engine.seen, engine.seen[1:], strict=False):
        for name in COUNTERS:
            assert getattr(after, name) >= getattr(before, name), name
    last = engine.engine.statistics
    assert (last.num_waiting, last.num_running) == (0, 0)
    assert [stage.stage for stage in last.stages] == [0, 1]
    steps = engine.engine.take_step_records()
    assert sum(step.num_tokens for step in steps) > 0
    assert engine.engine.take_step_records() == []


class Checker:
    """Finds the second time that any token comes."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def append(self, token_id: int) -> bool:
        self.seen.append(token_id)
        return len(self.seen) == 5


def test_stop_checkers_are_made_anew_for_requests_that_go_on() -> None:
    requests = [make_request(i, (i + 1, 7), 8, stop_token_ids=()) for i in range(6)]
    engine = PoisonedEngine(
        config_for(1), deadly_from(3, {5}, requests), make_stop_checker=lambda *_: Checker()
    )
    for request in requests:
        engine.engine.add_request(request, Checker())
    results = engine.run()
    assert [len(results[i, 0].token_ids) for i in range(5)] == [5] * 5
    assert results[5, 0].finish_reason is FinishReason.ERROR


def test_kv_of_an_earlier_run_is_not_used_after_a_restart() -> None:
    requests = requests_of(8)
    engine = PoisonedEngine(config_for(), DiesOnce(3))
    for request in requests[:4]:
        engine.engine.add_request(request)
    while engine.engine.num_restarts == 0:
        engine.engine.step()
    progress = RequestProgress(requests[4].key, 0, (), (), 4, (0,))
    engine.engine.add_request(requests[4], None, progress)
    results = engine.run()
    assert results[4, 0].token_ids == engine.harness.expected(requests[4])


def test_a_bug_is_no_death() -> None:
    engine = PoisonedEngine(config_for(), has_poison)

    def fail() -> list[FinishedRequest]:
        raise InvariantError("a bug")

    engine.engine.add_request(requests_of(1)[0])
    engine.pipeline.session.engine.step = fail  # type: ignore[method-assign]
    with pytest.raises(InvariantError):
        engine.engine.step()
    assert engine.engine.num_restarts == 0


def test_what_is_said() -> None:
    requests = poison_prompts(requests_of(4), [2], POISON)
    engine = PoisonedEngine(config_for(1), has_poison)
    engine.run(requests)
    assert "stage 0 fell over; the pipeline is started again and the job goes on" in engine.said[0]
    assert engine.said[0].endswith("2 requests run alone first of 4 that may be the cause")
    assert any("prompts.jsonl, byte 2: the pipeline dies whenever" in line for line in engine.said)
