"""errorPolicy: how many failures fail a job, and when that is known."""

from collections import Counter

import pytest
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import TooManyFailuresError
from pipemax_worker.job.spec import ErrorPolicySpec
from pipemax_worker.runner.failures import MIN_RECORDS_TO_JUDGE, check_failures

REASONS = Counter({"invalid_json": 3, "model_not_found": 1})


def check(policy: dict[str, float], failed: int, completed: int, is_final: bool = True) -> None:
    counts = RecordCounts(completed=completed, failed=failed)
    check_failures(ErrorPolicySpec.model_validate(policy), counts, REASONS, is_final)


@pytest.mark.parametrize(
    ("policy", "failed", "completed"),
    [
        ({}, 10, 0),
        ({}, 0, 0),
        ({"maxFailedPercent": 0}, 0, 10),
        ({"maxFailedPercent": 0}, 0, 0),
        ({"maxFailedPercent": 10}, 1, 9),
        ({"maxFailedCount": 0}, 0, 10),
        ({"maxFailedCount": 4}, 4, 0),
    ],
)
def test_what_the_policy_allows(policy: dict[str, float], failed: int, completed: int) -> None:
    check(policy, failed, completed)


@pytest.mark.parametrize(
    ("policy", "failed", "completed", "named"),
    [
        ({"maxFailedPercent": 0}, 1, 9999, "1 of 10000"),
        ({"maxFailedPercent": 10}, 2, 17, "maxFailedPercent allows 10 %"),
        ({"maxFailedCount": 0}, 1, 10, "maxFailedCount allows 0"),
        ({"maxFailedCount": 4, "maxFailedPercent": 90}, 5, 5, "5 requests failed"),
    ],
)
def test_what_it_does_not(
    policy: dict[str, float], failed: int, completed: int, named: str
) -> None:
    with pytest.raises(TooManyFailuresError, match=named) as caught:
        check(policy, failed, completed)
    assert "3 x invalid_json, 1 x model_not_found" in str(caught.value)


def test_a_share_is_not_judged_by_the_first_few_records() -> None:
    half = MIN_RECORDS_TO_JUDGE // 2
    check({"maxFailedPercent": 10}, half, half - 1, is_final=False)
    with pytest.raises(TooManyFailuresError):
        check({"maxFailedPercent": 10}, half, half, is_final=False)


def test_a_count_is_judged_at_once() -> None:
    with pytest.raises(TooManyFailuresError):
        check({"maxFailedCount": 1}, 2, 0, is_final=False)


def test_failures_of_an_earlier_run_have_no_reasons_here() -> None:
    policy = ErrorPolicySpec.model_validate({"maxFailedCount": 0})
    with pytest.raises(TooManyFailuresError, match="in an earlier run"):
        check_failures(policy, RecordCounts(failed=1), Counter(), is_final=True)
