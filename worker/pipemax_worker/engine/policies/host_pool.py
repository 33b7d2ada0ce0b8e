"""Which requests of the host pool join the next micro-batch: the paper's two-stage greedy. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pipemax_worker.engine.view import PooledRequest
from pipemax_worker.performance.batch_shape import BatchShape

_MAX_SWAPS = 8
_NUM_PROBE_REQUESTS = 16


class PoolTarget(msgspec.Struct, frozen=True):
    """What the choice should come to.

    seconds    target time of the step; 0: none yet, the more the better.
    resident   what the next micro-batch has on the GPU already.
    """

    seconds: float
    resident: BatchShape
    predict: Callable[[BatchShape], float]


class _Linear(msgspec.Struct, frozen=True):
    """The paper's form around ``resident``: seconds of the step with n more requests of L more
    positions."""

    base: float
    alpha: float
    beta: float

    def seconds(self, num_requests: int, num_kv_tokens: int) -> float:
        return self.base + self.alpha * num_requests + self.beta * num_kv_tokens


def choose_from_pool(
    pool: Sequence[PooledRequest], num_blocks: int, target: PoolTarget
) -> list[PooledRequest]:
    """Requests whose missing blocks fit ``num_blocks``; at least the one with the fewest, in part,
    so that a link slower than one request a step makes progress."""
    linear = _linearise(target)
    shortest_first = sorted(pool, key=lambda entry: (entry.num_missing_blocks, entry.request_id))
    chosen, num_left = _fill(shortest_first, num_blocks, target, linear)
    if not chosen:
        return shortest_first[:1]
    rest = [entry for entry in shortest_first if entry not in chosen]
    return _refine(chosen, rest, num_left, target, linear)


def _fill(
    shortest_first: Sequence[PooledRequest],
    num_blocks: int,
    target: PoolTarget,
    linear: _Linear,
) -> tuple[list[PooledRequest], int]:
    """Initialisation: the shortest while the bytes last and the target is not reached."""
    chosen: list[PooledRequest] = []
    num_kv_tokens = 0
    for entry in shortest_first:
        if entry.num_missing_blocks > num_blocks:
            break
        seconds = linear.seconds(len(chosen), num_kv_tokens)
        if chosen and target.seconds and seconds >= target.seconds:
            break
        chosen.append(entry)
        num_kv_tokens += entry.num_computed_tokens
        num_blocks -= entry.num_missing_blocks
    return chosen, num_blocks


def _refine(
    chosen: list[PooledRequest],
    rest: list[PooledRequest],
    num_left: int,
    target: PoolTarget,
    linear: _Linear,
) -> list[PooledRequest]:
    """Local refinement: swap one chosen for one longer request as long as that fills the bytes and
    brings the time nearer to the target."""
    num_kv_tokens = sum(entry.num_computed_tokens for entry in chosen)
    for _ in range(_MAX_SWAPS):
        swap = _best_swap(chosen, rest, num_left)
        if swap is None:
            break
        out, into = swap
        new_kv_tokens = num_kv_tokens + into.num_computed_tokens - out.num_computed_tokens
        before = linear.seconds(len(chosen), num_kv_tokens)
        after = linear.seconds(len(chosen), new_kv_tokens)
        if target.seconds and abs(after - target.seconds) > abs(before - target.seconds):
            break
        chosen[chosen.index(out)] = into
        rest.remove(into)
        num_left -= into.num_missing_blocks - out.num_missing_blocks
        num_kv_tokens = new_kv_tokens
    return chosen


def _best_swap(
    chosen: Sequence[PooledRequest], rest: Sequence[PooledRequest], num_left: int
) -> tuple[PooledRequest, PooledRequest] | None:
    """The longest chosen one for the longest other that the bytes left allow."""
    out = max(chosen, key=lambda entry: entry.num_missing_blocks)
    limit = out.num_missing_blocks + num_left
    fitting = [e for e in rest if out.num_missing_blocks < e.num_missing_blocks <= limit]
    if not fitting:
        return None
    return out, max(fitting, key=lambda entry: entry.num_missing_blocks)


def _linearise(target: PoolTarget) -> _Linear:
    resident = target.resident
    base = target.predict(resident) if resident.num_tokens else 0.0
    n, kv = resident.num_tokens, resident.num_kv_tokens
    probe = BatchShape(n + _NUM_PROBE_REQUESTS, kv, n + _NUM_PROBE_REQUESTS)
    more = target.predict(probe)
    mean_tokens = max(1, kv // max(1, n))
    longer = BatchShape(
        probe.num_tokens, kv + _NUM_PROBE_REQUESTS * mean_tokens, probe.num_requests
    )
    return _Linear(
        base=base,
        alpha=max(0.0, more - base) / _NUM_PROBE_REQUESTS,
        beta=max(0.0, target.predict(longer) - more) / (_NUM_PROBE_REQUESTS * mean_tokens),
    )
