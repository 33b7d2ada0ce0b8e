"""Why a stage is gone: its own words, else its exit code."""

import pytest
from pipemax_worker import errors
from pipemax_worker.contract.messages import StageFailed
from pipemax_worker.errors import KVTierError, PipemaxError, StageDiedError
from pipemax_worker.pipeline.endings import describe_death, find_unclean_end, leaves_last_words

WORDS = StageFailed(1, KVTierError.reason, "no room for the index")


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (3, "stage 2 exited with 3 after message 7"),
        (-11, "stage 2 was killed by signal 11 after message 7"),
        (-9, "signal 9 after message 7; if nobody killed it, the machine ran out of memory"),
    ],
)
def test_a_death_without_words(exit_code: int, said: str) -> None:
    death = describe_death(2, exit_code, 7, None)
    assert (death.stage, death.exit_code, death.last_sequence) == (2, exit_code, 7)
    assert said in death.message


def test_words_say_it_best() -> None:
    death = describe_death(1, 74, 7, WORDS)
    assert (death.reason, death.message) == ("KVTierFailed", "no room for the index")


def test_every_error_of_ours_leaves_words_and_nothing_else_does() -> None:
    ours = [one for one in vars(errors).values() if isinstance(one, type)]
    assert all(leaves_last_words(one.exit_code) for one in ours if issubclass(one, PipemaxError))
    assert not any(map(leaves_last_words, (None, 0, 1, 3, -9, 137)))


def test_all_ended_in_order() -> None:
    assert find_unclean_end({0: 0, 1: 0}, {}, 5.0) is None


def test_one_that_still_runs() -> None:
    error = find_unclean_end({0: 0, 1: None}, {}, 5.0)
    assert isinstance(error, StageDiedError)
    assert str(error) == "stage 1 has not ended after 5.0 s"


def test_one_that_ended_badly() -> None:
    assert "stage 0 ended with exit code -9" in str(find_unclean_end({0: -9, 1: None}, {}, 5.0))
    assert isinstance(find_unclean_end({0: 70, 1: 74}, {1: WORDS}, 5.0), KVTierError)
