"""The operator's probe fails when its loop hangs, and only then."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from pipemax_operator.handlers import MAX_SILENCE_SECONDS, last_reconcile_age
from pipemax_operator.requeue import TURN_SECONDS


def memo_of(idle_seconds: float) -> Any:
    requeue = SimpleNamespace(idle_seconds=lambda: idle_seconds)
    return SimpleNamespace(operator=SimpleNamespace(requeue=requeue))


def test_the_age_is_told() -> None:
    assert asyncio.run(last_reconcile_age(memo=memo_of(2.5))) == 2.5


def test_a_queue_that_hangs_fails_the_probe_with_its_age() -> None:
    with pytest.raises(kopf.PermanentError, match="not turned for 61 s"):
        asyncio.run(last_reconcile_age(memo=memo_of(MAX_SILENCE_SECONDS + 1)))


def test_a_queue_with_nothing_to_do_turns_often_enough() -> None:
    assert TURN_SECONDS * 3 < MAX_SILENCE_SECONDS
