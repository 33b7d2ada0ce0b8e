"""Engines over simulated pipelines that are stopped, and go on in new ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from kit.engine import Harness
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.request import FinishedRequest, Request, RequestProgress
from pipemax_worker.engine.parking import ParkedRequest

NEVER = 1e9
"""On the clock of a harness."""

Texts = dict[tuple[int, int], tuple[int, ...]]


def texts_of(finished: Iterable[FinishedRequest]) -> Texts:
    return {(one.key.offset, one.choice): one.token_ids for one in finished}


def stop(
    harness: Harness, num_steps: int, until: float = NEVER
) -> tuple[list[FinishedRequest], tuple[ParkedRequest, ...]]:
    """Step so often, then park: who has finished by then, and what is left of the others."""
    finished = [one for _ in range(num_steps) for one in harness.engine.step()]
    assert harness.engine.settle(NEVER)
    finished += harness.engine.take_finished()
    parked = harness.engine.park(until)
    harness.manager.check_integrity()
    return finished, parked


def move_nvme(source: Harness, target: Harness) -> None:
    """The files of one pipeline are those of the next."""
    for old, new in zip(source.executor.stages, target.executor.stages, strict=True):
        for (tier, slot), content in old.slots.items():
            if tier is Tier.NVME:
                new.slots[tier, slot] = list(content)


def go_on(
    harness: Harness,
    requests: Iterable[Request],
    parked: Iterable[ParkedRequest],
    before_each: Callable[[], object] = lambda: None,
) -> None:
    """Adopt what is parked and add ``requests`` with it."""
    progress = {(one.progress.key, one.progress.choice): one.progress for one in parked}
    harness.engine.adopt(progress.values())
    harness.manager.check_integrity()
    for request in requests:
        before_each()
        found = progress.pop((request.key, request.choice), None)
        harness.engine.add_request(request, None, found)
    for left in progress.values():
        harness.scheduler.parking.release(left)


def first_positions(harness: Harness) -> dict[int, int]:
    """Offset of a request -> the first position that the pipeline computed of it."""
    positions: dict[int, int] = {}
    for message in harness.executor.submitted:
        for row in message.scheduled:
            positions.setdefault(row.request_id, row.num_computed_tokens)
    return positions


def shuffled(generator: random.Random, requests: Iterable[Request]) -> list[Request]:
    order = list(requests)
    generator.shuffle(order)
    return order


def kept_tokens(parked: Iterable[ParkedRequest]) -> int:
    return sum(one.progress.num_computed_tokens for one in parked)


def progress_by_key(parked: Iterable[ParkedRequest]) -> dict[tuple[int, int], RequestProgress]:
    return {(one.progress.key.offset, one.progress.choice): one.progress for one in parked}
