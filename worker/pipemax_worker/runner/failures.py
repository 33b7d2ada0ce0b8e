"""Whether a job has failed by ``spec.errorPolicy``. Pure."""

from __future__ import annotations

from collections import Counter

from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import TooManyFailuresError
from pipemax_worker.job.spec import ErrorPolicySpec

MIN_RECORDS_TO_JUDGE = 1000


def check_failures(
    policy: ErrorPolicySpec, counts: RecordCounts, reasons: Counter[str], is_final: bool
) -> None:
    """Raise TooManyFailuresError if more requests have failed than ``policy`` allows.

    A hopeless job ends early: by count at once, by percent from 1,000 records on, or when
    ``is_final``. ``reasons`` holds the error codes of this run's failed records.
    """
    failed, total = counts.failed, counts.num_records
    if policy.max_failed_count is not None and failed > policy.max_failed_count:
        raise TooManyFailuresError(
            f"{failed} requests failed, spec.errorPolicy.maxFailedCount allows "
            f"{policy.max_failed_count}: {_describe(reasons)}"
        )
    is_judged = is_final or total >= MIN_RECORDS_TO_JUDGE
    if is_judged and 100 * failed > policy.max_failed_percent * total:
        raise TooManyFailuresError(
            f"{failed} of {total} requests failed, spec.errorPolicy.maxFailedPercent allows "
            f"{policy.max_failed_percent:g} %: {_describe(reasons)}"
        )


def _describe(reasons: Counter[str]) -> str:
    worst = ", ".join(f"{count} x {code}" for code, count in reasons.most_common(3))
    return f"{worst or 'in an earlier run'}; `pipemax results FILE --failed` shows them"
