"""Stopped at any point, with what is parked a later engine writes the same texts and recomputes
nothing that was kept."""

import random

import msgspec
import pytest
from kit.engine import Harness, make_config, make_geometry, random_requests
from kit.stops import (
    Texts,
    first_positions,
    go_on,
    kept_tokens,
    move_nvme,
    progress_by_key,
    shuffled,
    stop,
    texts_of,
)
from pipemax_worker.contract.geometry import Tier, num_blocks_for
from pipemax_worker.contract.request import Request
from pipemax_worker.engine.config import SchedulerConfig

REQUESTS = random_requests(random.Random(17), 16, max_prompt=24, max_output=16, shared_heads=2)
LONGEST = 10  # blocks of 4 tokens
ROOMY = {"device": 200, "host": 200, "nvme": 200}
TIGHT = {"device": LONGEST + 2, "host": 2 * LONGEST, "nvme": 60}


def config_of(tiers: dict[str, int], num_stages: int = 2, **overrides: object) -> SchedulerConfig:
    return make_config(make_geometry(num_stages=num_stages, **tiers), **overrides)


def start(config: SchedulerConfig, requests: list[Request], seed: int = 0) -> Harness:
    harness = Harness(config, seed=seed)
    for request in requests:
        harness.engine.add_request(request)
    return harness


@pytest.fixture(scope="module")
def expected() -> Texts:
    return texts_of(Harness(config_of(ROOMY), eager=True).run(REQUESTS).values())


@pytest.mark.parametrize("num_stages", [1, 3])
@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("num_steps", [1, 6, 12, 18])
def test_nothing_that_was_kept_is_computed_again(
    expected: Texts, num_stages: int, run_ahead: bool, num_steps: int
) -> None:
    config = config_of(ROOMY, num_stages, run_ahead=run_ahead)
    first = start(config, REQUESTS)
    finished, parked = stop(first, num_steps)
    assert parked
    progress = progress_by_key(parked)
    for one in parked:
        num_blocks = num_blocks_for(one.progress.num_computed_tokens, 4)
        assert len(one.progress.nvme_slots) == num_blocks
        if one.progress.output_token_ids:
            assert one.progress.num_computed_tokens == (
                len(one.request.prompt_token_ids) + len(one.progress.output_token_ids) - 1
            ), "unfilled last blocks too"

    second = Harness(config, seed=1)
    move_nvme(first, second)
    left = list(first.engine.unfinished_requests())
    go_on(second, left, parked)
    results = second.run(check_every=3)
    assert texts_of(finished) | texts_of(results.values()) == expected
    for request_id, position in first_positions(second).items():
        request = left[request_id]
        kept = progress.get((request.key.offset, 0))
        assert position >= (kept.num_computed_tokens if kept else 0)
    statistics = second.engine.statistics
    assert statistics.num_restored_tokens == kept_tokens(parked)
    assert statistics.num_recomputed_tokens == 0
    second.settle()


@pytest.mark.parametrize("seed", range(24))
def test_random_stops_one_after_the_other(expected: Texts, seed: int) -> None:
    """In tight tiers, with bad slots, requests in any order, some of whom never come back."""
    generator = random.Random(seed)
    config = config_of(
        TIGHT,
        generator.choice([1, 2, 4]),
        run_ahead=generator.random() < 0.5,
        prefix_sharing=generator.random() < 0.7,
        max_num_running=generator.choice([None, 3]),
    )
    harness = start(config, REQUESTS, seed)
    found: Texts = {}
    for life in range(1, 6):
        finished, parked = stop(harness, generator.randint(0, 25))
        found |= texts_of(finished)
        left = shuffled(generator, harness.engine.unfinished_requests())
        lost = {request.key for request in left if generator.random() < 0.1}
        found |= {(key.offset, 0): expected[key.offset, 0] for key in lost}
        following = Harness(
            config, seed=100 * seed + life, promote_failures=generator.choice([0.0, 0.1])
        )
        move_nvme(harness, following)
        go_on(following, [request for request in left if request.key not in lost], parked)
        following.manager.check_integrity()
        harness = following
    found |= texts_of(harness.run(check_every=5, max_steps=50_000).values())
    assert found == expected
    harness.settle()


def test_kv_that_others_do_not_claim_yet_is_not_in_the_way(expected: Texts) -> None:
    """Requests come one by one, each after the last has ended: shared heads stay on NVME."""
    config = config_of(TIGHT)
    first = start(config, REQUESTS)
    finished, parked = stop(first, 25)
    found = texts_of(finished)
    second = Harness(config, seed=3)
    move_nvme(first, second)

    def run_to_the_end() -> None:
        found.update(texts_of(second.run().values()))
        second.manager.check_integrity()

    go_on(second, first.engine.unfinished_requests(), parked, run_to_the_end)
    run_to_the_end()
    assert found == expected
    assert second.engine.statistics.num_restored_tokens == kept_tokens(parked)
    second.settle()


def test_parked_requests_run_before_new_ones() -> None:
    config = config_of(ROOMY, max_num_running=2)
    first = start(config, REQUESTS)
    _, parked = stop(first, 12)
    second = Harness(config)
    move_nvme(first, second)
    kept = {one.progress.key for one in parked if one.progress.num_computed_tokens}
    left = list(first.engine.unfinished_requests())
    newest_first = sorted(left, key=lambda request: request.key in kept)
    go_on(second, newest_first, parked)
    second.run()
    assert kept
    first_runs = list(first_positions(second))[: len(kept)]
    assert {newest_first[request_id].key for request_id in first_runs} == kept


def test_outputs_are_kept_where_kv_is_not(expected: Texts) -> None:
    """No NVME tier: nobody generates a token twice, though all is computed again."""
    config = config_of({"device": 200, "host": 200})
    first = start(config, REQUESTS)
    finished, parked = stop(first, 20)
    assert kept_tokens(parked) == 0
    num_outputs = sum(len(one.progress.output_token_ids) for one in parked)
    assert num_outputs
    second = Harness(config)
    go_on(second, first.engine.unfinished_requests(), parked)
    results = second.run()
    assert texts_of(finished) | texts_of(results.values()) == expected
    whole = sum(len(text) for text in expected.values())
    before = sum(len(one.token_ids) for one in finished)
    assert second.engine.statistics.num_generated_tokens <= whole - num_outputs - before + 16


def test_what_has_no_room_on_nvme_is_given_up(expected: Texts) -> None:
    config = config_of({"device": 200, "host": 200, "nvme": 12})
    first = start(config, REQUESTS)
    finished, parked = stop(first, 20)
    slots = {slot for one in parked for slot in one.progress.nvme_slots}
    assert len(slots) == 12
    assert first.scheduler.parking.num_blocks == 12
    second = Harness(config)
    move_nvme(first, second)
    go_on(second, first.engine.unfinished_requests(), parked)
    results = second.run()
    assert texts_of(finished) | texts_of(results.values()) == expected
    assert second.engine.statistics.num_restored_tokens == kept_tokens(parked) > 0


class TestTime:
    """One demote lands in as many seconds as the link takes for it."""

    @staticmethod
    def stopped(seconds: float, bytes_per_second: float) -> tuple[Harness, int]:
        harness = start(config_of(ROOMY, 1), REQUESTS)
        harness.executor.link_bytes_per_second = bytes_per_second
        collect = harness.executor.collect

        def collect_and_tick(timeout_seconds: float) -> object:
            events = collect(timeout_seconds)
            for event in events:
                for result in getattr(event, "copies", ()):
                    harness.clock.seconds += result.seconds
            return events

        harness.executor.collect = collect_and_tick  # type: ignore[method-assign, assignment]
        for _ in range(20):
            harness.engine.step()
        assert harness.engine.settle(1e9)
        harness.clock.seconds = 0.0
        harness.engine.park(seconds)
        return harness, harness.scheduler.parking.num_blocks

    def test_no_time_at_all(self) -> None:
        harness, num_blocks = self.stopped(0.0, 1e9)
        assert num_blocks == 0
        assert not harness.scheduler.has_pending_copies

    def test_all_of_it(self) -> None:
        harness, num_blocks = self.stopped(100.0, 1e6)
        slots = {s for one in harness.scheduler.parking.parked() for s in one.progress.nvme_slots}
        assert num_blocks == len(slots) > 20

    @pytest.mark.parametrize("seconds", [0.03, 0.06, 0.1])
    def test_what_cannot_end_in_time_is_not_begun(
        self, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        """Nothing is known of the link when it starts but what its first, small batch tells."""
        monkeypatch.setattr("pipemax_worker.engine.parking.FIRST_BATCH_BYTES", 4 * 4096)
        _, everything = self.stopped(100.0, 1e6)
        harness, num_blocks = self.stopped(seconds, 1e6)
        num_possible = int(seconds / 4096e-6)
        assert num_possible * 0.7 <= num_blocks <= num_possible < everything
        assert not harness.scheduler.has_pending_copies
        assert harness.clock.seconds <= seconds


def test_a_stage_that_dies_while_it_parks() -> None:
    harness = start(config_of(ROOMY), REQUESTS)
    for _ in range(10):
        harness.engine.step()
    assert harness.engine.settle(1e9)
    harness.executor.kill(1)
    with pytest.raises(Exception, match="stage 1 ended"):
        harness.engine.park(1e9)


def test_settling_ends_at_its_limit() -> None:
    harness = start(config_of(ROOMY), REQUESTS)
    harness.engine.step()
    harness.clock.seconds = 5.0
    assert not harness.engine.settle(5.0)


def test_a_failed_demote_keeps_the_blocks_before_it(expected: Texts) -> None:
    """A full disk: the copy of one block fails, and all that come after it in the request."""
    config = config_of(ROOMY, 1)
    first = start(config, REQUESTS)
    report = first.executor._report
    generator = random.Random(3)

    def report_failures(stage: object, num_tokens: int, sequence: int | None = None) -> None:
        stage.landed = [  # type: ignore[attr-defined]
            msgspec.structs.replace(one, failed=(0,))
            if one.job_id in demotes and generator.random() < 0.7
            else one
            for one in stage.landed  # type: ignore[attr-defined]
        ]
        report(stage, num_tokens, sequence)  # type: ignore[arg-type]

    demotes: set[int] = set()
    submit = first.executor.submit

    def note_demotes(message: object) -> None:
        demotes.update(j.job_id for j in message.background if j.target is Tier.NVME)  # type: ignore[attr-defined]
        submit(message)  # type: ignore[arg-type]

    first.executor.submit = note_demotes  # type: ignore[method-assign, assignment]
    first.executor._report = report_failures  # type: ignore[method-assign, assignment]
    finished, parked = stop(first, 20)
    whole = sum(state.num_computed_tokens for state in first.scheduler._lifecycle.states.values())
    assert 0 < kept_tokens(parked) < whole
    second = Harness(config)
    move_nvme(first, second)
    go_on(second, first.engine.unfinished_requests(), parked)
    results = second.run()
    assert texts_of(finished) | texts_of(results.values()) == expected
    assert second.engine.statistics.num_restored_tokens == kept_tokens(parked)
