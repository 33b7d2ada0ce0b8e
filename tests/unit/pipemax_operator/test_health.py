"""Ready and alive: an API server that is away costs readiness and never life."""

from __future__ import annotations

import pytest
from pipemax_operator.health import (
    MAX_BEHIND_SECONDS,
    MAX_SILENCE_SECONDS,
    Vitals,
    find_mortal_fault,
    find_unreadiness,
)
from pipemax_operator.requeue import TURN_SECONDS

WELL = Vitals(has_listed=True, answer_age_seconds=1.0)


def test_all_is_well() -> None:
    assert find_mortal_fault(WELL) is None
    assert find_unreadiness(WELL) is None
    assert TURN_SECONDS * 3 < MAX_SILENCE_SECONDS


@pytest.mark.parametrize(
    ("vitals", "said"),
    [
        (Vitals(last_error="Cannot connect"), "not been listed yet: Cannot connect"),
        (Vitals(answer_age_seconds=1.0), "not been listed yet: being listed"),
        (
            Vitals(has_listed=True, answer_age_seconds=61.0, last_error="refused"),
            "no answer from the API server for 61 s: refused",
        ),
    ],
)
def test_without_the_api_server_it_lives_and_is_not_ready(vitals: Vitals, said: str) -> None:
    assert find_mortal_fault(vitals) is None
    assert said in (find_unreadiness(vitals) or "")


@pytest.mark.parametrize(
    ("vitals", "said"),
    [
        (Vitals(queue_idle_seconds=MAX_SILENCE_SECONDS + 1), "queue has not turned for 61 s"),
        (
            Vitals(behind_seconds={"Pod": MAX_BEHIND_SECONDS + 1}),
            "watch of kind Pod has been blind for 181 s",
        ),
    ],
)
def test_what_only_a_restart_mends(vitals: Vitals, said: str) -> None:
    assert said in (find_mortal_fault(vitals) or "")
    assert said in (find_unreadiness(vitals) or "")


def test_a_watch_that_is_late_is_not_yet_blind() -> None:
    assert find_mortal_fault(Vitals(behind_seconds={"Pod": MAX_BEHIND_SECONDS})) is None
