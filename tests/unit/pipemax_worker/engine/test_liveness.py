"""Who hangs, and who may have killed a stage."""

from __future__ import annotations

import pytest
from kit.engine import Harness, ManualClock, make_config, make_geometry, make_request
from pipemax_worker.contract.messages import ExecutorEvent, StageDied, StageReport
from pipemax_worker.engine.liveness import Liveness, suspect_messages
from pipemax_worker.errors import StageDiedError


def report(stage: int, sequence: int) -> StageReport:
    return StageReport(sequence, stage, 1, 0.1, 0.0, 0.0)


def test_silence_of_the_stage_that_is_furthest_behind() -> None:
    liveness = Liveness(3, 10.0)
    for stage, sequence in ((0, 7), (1, 5), (2, 5), (0, 6)):
        liveness.note_report(report(stage, sequence))
    liveness.note_silence(9.0, 9.0)
    assert liveness.find_hang() is None
    liveness.note_silence(2.0, 9.0)
    death = liveness.find_hang()
    assert death is not None
    assert (death.stage, death.last_sequence) == (1, 5)
    assert "stage 1 hangs: 11 s without an answer to message 6" in death.message
    assert suspect_messages((death,)) == range(6, 7), "the oldest message in flight"


def test_a_word_from_anybody_ends_the_silence() -> None:
    liveness = Liveness(2, 10.0)
    liveness.note_silence(9.0, 9.0)
    liveness.note_events()
    liveness.note_silence(9.0, 9.0)
    assert liveness.find_hang() is None


def test_a_driver_that_was_frozen_itself_blames_nobody() -> None:
    """Ctrl-Z stops the driver with its stages; the clock goes on."""
    liveness = Liveness(1, 10.0)
    liveness.note_silence(waited_seconds=86_400.0, timeout_seconds=0.2)
    assert liveness.find_hang() is None


def test_without_a_limit_nobody_hangs() -> None:
    liveness = Liveness(1)
    liveness.note_silence(1e9, 1e9)
    assert liveness.find_hang() is None


def test_messages_that_a_dead_stage_may_have_been_at() -> None:
    assert suspect_messages((StageDied(0, 1, 4),)) == range(5, 7), "its last report may be lost"
    deaths = (StageDied(0, -9, 8), StageDied(2, -9, 4))
    assert suspect_messages(deaths) == range(5, 11), "one may have died of the other's death"


class SilentStages:
    """Take every message and never answer."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock

    def submit(self, stage_input: object) -> None:
        pass

    def collect(self, timeout_seconds: float) -> list[ExecutorEvent]:
        self.clock.seconds += timeout_seconds
        return []


def make_silent_harness(step_timeout_seconds: float, **config: int) -> Harness:
    harness = Harness(make_config(make_geometry(num_stages=2), num_micro_batches=2, **config))
    engine = harness.engine
    engine.timeout_seconds = 1.0
    engine.executor = SilentStages(harness.clock)  # type: ignore[assignment]
    engine._liveness = Liveness(2, step_timeout_seconds)
    return harness


def test_an_engine_gives_up_stages_that_are_silent_for_too_long() -> None:
    harness = make_silent_harness(5.0)
    for offset in range(3):
        harness.engine.add_request(make_request(offset, (1, 2), 4))
    for _ in range(4):
        assert harness.engine.step() == []
    with pytest.raises(StageDiedError, match=r"stage 0 hangs: 5 s .* message 0"):
        harness.engine.step()
    assert harness.engine.deaths[0].exit_code == 0
    assert harness.engine.suspects(), "with a row in message 0"


def test_an_engine_with_nothing_to_do_waits_for_nobody() -> None:
    harness = make_silent_harness(1.0)
    for _ in range(10):
        assert harness.engine.step() == []


def test_suspects_are_the_unfinished_requests_with_a_row_that_the_dead_stage_was_at() -> None:
    harness = make_silent_harness(100.0, max_num_requests=1)
    for offset in range(3):
        harness.engine.add_request(make_request(offset, (1, offset + 1), 30))
    assert harness.engine.step() == []
    assert [plan.sequence for plan in harness.engine.in_flight] == [0, 1]
    assert harness.engine.suspects() == (), "nobody has died"
    with pytest.raises(StageDiedError):
        harness.engine._raise_deaths([StageDied(1, 1, 0)])
    assert [request.key.offset for request in harness.engine.suspects()] == [1]
    with pytest.raises(StageDiedError):
        harness.engine._raise_deaths([StageDied(1, 1, -1)])
    suspects = [request.key.offset for request in harness.engine.suspects()]
    assert suspects == [0, 1], "with the message after it; who waits is none"


def test_what_else_has_come_counts_though_a_stage_has_died() -> None:
    harness = Harness(make_config(make_geometry(num_stages=1)), eager=True)
    harness.engine.add_request(make_request(0, (1, 2), 1))
    executor = harness.executor
    collect = executor.collect

    def collect_and_die(timeout_seconds: float) -> list[ExecutorEvent]:
        return [StageDied(0, -9, 0, message="gone"), *collect(timeout_seconds)]

    executor.collect = collect_and_die  # type: ignore[method-assign]
    with pytest.raises(StageDiedError, match="gone"):
        harness.engine.step()
    (finished,) = harness.engine.take_finished()
    assert finished.key.offset == 0
