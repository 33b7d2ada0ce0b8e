"""64 workers over one ledger in virtual time: they finish together, and claims cost little.

The figures with real processes and a real store are those of ``make many-workers``.
"""

from __future__ import annotations

import pytest
from kit.claim_simulation import simulate

MEBIBYTE = 2**20


@pytest.mark.parametrize("latency_seconds", [0.005, 0.03])
def test_64_workers_finish_together_and_claims_cost_little(latency_seconds: float) -> None:
    outcome = simulate(64, 512 * MEBIBYTE, seconds=1200.0, latency_seconds=latency_seconds)
    assert outcome.ledger.is_finished
    assert len(outcome.survivors) == 64
    assert outcome.finish_spread_ratio < 0.02
    assert outcome.cost_ratio() < 0.01


def test_they_do_though_a_third_is_killed_or_frozen() -> None:
    outcome = simulate(
        64, 512 * MEBIBYTE, seconds=1200.0, num_killed=11, num_frozen=10, latency_seconds=0.01
    )
    assert outcome.ledger.is_finished
    assert len(outcome.survivors) == 53
    assert outcome.finish_spread_ratio < 0.02
    assert outcome.cost_ratio() < 0.01


def test_work_is_done_twice_only_where_somebody_fell_silent() -> None:
    outcome = simulate(16, 64 * MEBIBYTE, seconds=600.0)
    num_taken = sum(len(worker.taken) for worker in outcome.workers)
    assert num_taken == len(outcome.ledger.ranges)
    assert outcome.num_refused < num_taken


def test_one_worker_alone_is_never_refused_and_hardly_asks() -> None:
    outcome = simulate(1, 16 * MEBIBYTE, seconds=600.0)
    (worker,) = outcome.workers
    indices = [claimed.input_range.index for claimed in worker.taken]
    assert indices == list(range(len(outcome.ledger.ranges)))
    assert outcome.num_refused == 0
    assert worker.store.calls["get ledger/claims"] == 0
