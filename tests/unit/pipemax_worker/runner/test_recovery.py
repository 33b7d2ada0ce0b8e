"""Halving the suspects: the poison is found in time, and nobody else is condemned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipemax_worker.contract.request import RecordKey
from pipemax_worker.runner.recovery import (
    MAX_ACCUSED,
    MAX_UNEXPLAINED,
    Trial,
    after_death,
    after_finish,
    after_survival,
)


def key(number: int) -> RecordKey:
    return RecordKey("in.jsonl", number)


def keys(numbers: Iterable[int]) -> tuple[RecordKey, ...]:
    return tuple(map(key, numbers))


class Pipeline:
    """Runs whoever may run; all at once, and dies of a poison among them before anyone finishes.

    Then those who ran are suspects. ``condemned`` have an error record, ``finished`` a good one.
    """

    def __init__(self, num_lines: int, poisons: Iterable[int], from_outside: bool = False) -> None:
        self.waiting = dict.fromkeys(keys(range(num_lines)))
        self.poisons = set(keys(poisons))
        self.from_outside = from_outside
        self.trial = Trial()
        self.finished: list[RecordKey] = []
        self.condemned: list[RecordKey] = []
        self.num_deaths = 0
        self.doubted: Counter[RecordKey] = Counter()

    def run(self, spurious: Callable[[int], bool] = lambda _: False) -> None:
        """To the end; ``spurious`` tells for each turn whether it ends in a death of no reason."""
        turn = 0
        while self.waiting and not self.trial.is_hopeless:
            running = [one for one in self.waiting if not self.trial.is_open]
            running += [one for one in self.trial.running if one in self.waiting]
            if spurious(turn) or self.poisons & set(running):
                self._die(running)
            else:
                self._finish(running)
            turn += 1
        if not self.trial.is_hopeless:
            self.condemned += self.trial.accused

    def _die(self, running: list[RecordKey]) -> None:
        self.num_deaths += 1
        self.doubted.update(running)
        before = self.trial.accused
        others = [one for one in self.waiting if one not in self.trial.running]
        control = min(others, key=lambda one: (self.doubted[one], one), default=None)
        self.trial = after_death(self.trial, tuple(running), self.from_outside, control)
        for one in set(self.trial.accused) - set(before):
            del self.waiting[one]

    def _finish(self, running: list[RecordKey]) -> None:
        for one in running:
            del self.waiting[one]
        self.finished += running
        self.condemned += self.trial.accused
        self.trial = after_finish(self.trial)
        if self.trial.is_open:
            self.trial = after_survival(self.trial)


@pytest.mark.parametrize("num_lines", [*range(1, 40), 63, 64, 65, 127, 128, 255, 256])
def test_one_poison_is_found_within_log2_of_n_plus_1_deaths(num_lines: int) -> None:
    for poison in range(num_lines):
        pipeline = Pipeline(num_lines, [poison])
        pipeline.run()
        assert pipeline.condemned == [key(poison)]
        assert len(pipeline.finished) == num_lines - 1
        # One that is alone from the beginning dies once more: its first death proves nothing.
        assert pipeline.num_deaths <= max(2, math.log2(num_lines) + 1)


@given(st.integers(1, 256), st.data())
@settings(max_examples=200, deadline=None)
def test_several_poisons_are_found_and_nobody_else_is_condemned(
    num_lines: int, data: st.DataObject
) -> None:
    poisons = data.draw(st.sets(st.integers(0, num_lines - 1), max_size=min(6, num_lines // 4)))
    pipeline = Pipeline(num_lines, poisons)
    pipeline.run()
    if not pipeline.trial.is_hopeless:
        assert sorted(pipeline.condemned) == sorted(keys(poisons))
        assert len(pipeline.finished) == num_lines - len(poisons)
    assert set(pipeline.condemned) <= pipeline.poisons, "come what may"
    assert not pipeline.trial.is_hopeless or len(poisons) >= MAX_ACCUSED, "two are found always"
    assert pipeline.num_deaths <= max(2, math.log2(num_lines) + 1) * len(poisons)


@given(st.integers(1, 256), st.integers(0, 40), st.data())
@settings(max_examples=200, deadline=None)
def test_a_death_that_does_not_repeat_condemns_nobody(
    num_lines: int, turn: int, data: st.DataObject
) -> None:
    pipeline = Pipeline(num_lines, [])
    pipeline.run(spurious=lambda now: now == turn)
    assert pipeline.condemned == []
    assert len(pipeline.finished) == num_lines
    assert pipeline.num_deaths <= 1


def test_a_death_that_does_not_repeat_is_over_after_two_rounds() -> None:
    trial = after_death(Trial(), keys(range(256)), False, None)
    assert len(trial.running) == 128
    trial = after_survival(after_finish(trial))
    assert trial.running == keys(range(128, 256)), "all of the others at once"
    assert not after_survival(after_finish(trial)).is_open


def test_where_the_deaths_are_too_few_the_others_are_halved_unseen() -> None:
    trial = after_survival(after_death(Trial(), keys(range(3)), False, None))
    assert (trial.running, trial.others) == (keys([1]), keys([2]))


@pytest.mark.parametrize("num_lines", [1, 2, 17, 256])
def test_two_kills_from_outside_in_a_row_condemn_nobody(num_lines: int) -> None:
    """Whoever kills stages at random does not hit the same lone line twice but by bad luck."""
    pipeline = Pipeline(num_lines, [], from_outside=True)
    pipeline.run(spurious=lambda turn: turn < 2)
    assert pipeline.condemned == []
    assert len(pipeline.finished) == num_lines


@pytest.mark.parametrize("num_lines", [1, 2, 17, 256])
def test_a_poison_that_looks_like_a_kill_from_outside_costs_one_death_more(num_lines: int) -> None:
    pipeline = Pipeline(num_lines, [num_lines - 1], from_outside=True)
    pipeline.run()
    assert pipeline.condemned == [key(num_lines - 1)]
    assert pipeline.num_deaths <= max(2, math.log2(num_lines) + 1) + 1


def test_a_broken_machine_condemns_nobody() -> None:
    for num_lines in (3, 4, 50, 256):
        pipeline = Pipeline(num_lines, range(num_lines))
        pipeline.run()
        assert pipeline.trial.is_hopeless
        assert pipeline.condemned == []
        assert len(pipeline.trial.accused) == MAX_ACCUSED


def test_the_last_lines_are_condemned_though_nothing_can_finish_after_them() -> None:
    pipeline = Pipeline(2, [0, 1])
    pipeline.run()
    assert sorted(pipeline.condemned) == sorted(keys([0, 1]))


def test_neighbours_that_are_all_poison_are_no_broken_machine() -> None:
    """Between two that are condemned another line runs, and clears the machine."""
    pipeline = Pipeline(64, range(5, 15))
    pipeline.run()
    assert sorted(pipeline.condemned) == sorted(keys(range(5, 15)))
    assert len(pipeline.finished) == 54


def test_deaths_without_suspects_are_not_repeated_for_ever() -> None:
    trial = Trial(running=keys([1, 2]), others=keys([3]))
    for number in range(1, MAX_UNEXPLAINED):
        trial = after_death(trial, keys([3, 4]), False, None)
        assert (trial.running, trial.others) == (keys([1, 2]), keys([3])), "once more"
        assert trial.num_unexplained == number
        assert not trial.is_hopeless
    assert after_finish(trial).num_unexplained == 0
    assert after_death(trial, (), False, None).is_hopeless


def test_who_is_not_in_flight_at_a_death_is_no_suspect_any_more() -> None:
    trial = after_death(Trial(), keys(range(8)), False, None)
    trial = after_death(trial, keys([1, 2, 7]), False, None)
    assert (trial.running, trial.others) == (keys([1]), keys([2]))
