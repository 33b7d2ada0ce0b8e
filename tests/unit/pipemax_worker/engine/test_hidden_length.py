from __future__ import annotations

from pipemax_worker.contract.request import StopChecker
from pipemax_worker.engine.hidden_length import LengthReached


def test_a_text_ends_at_its_length_whatever_the_tokens_are() -> None:
    checker: StopChecker = LengthReached(3)
    assert [checker.append(token_id) for token_id in (7, 0, 7)] == [False, False, True]
