"""The queue of keys: each at most once at work, none forgotten."""

from __future__ import annotations

import asyncio
import time

from pipemax_operator.requeue import Key, Requeue

KEY = ("team-a", "reviews")


async def run_for(requeue: Requeue, seconds: float) -> None:
    task = asyncio.create_task(requeue.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_events_while_at_work_come_once_more() -> None:
    at_work, most, calls = 0, 0, 0

    async def work(_: Key) -> float | None:
        nonlocal at_work, most, calls
        at_work, calls = at_work + 1, calls + 1
        most = max(most, at_work)
        if calls == 1:
            for _number in range(5):
                requeue.now(KEY)
        await asyncio.sleep(0.02)
        at_work -= 1
        return None

    async def scene() -> None:
        requeue.now(KEY)
        await run_for(requeue, 0.2)

    requeue = Requeue(work, time.monotonic)
    asyncio.run(scene())
    assert (most, calls) == (1, 2)


def test_a_key_comes_back_when_it_said_so() -> None:
    calls = 0

    async def work(_: Key) -> float | None:
        nonlocal calls
        calls += 1
        return 0.01 if calls < 4 else None

    async def scene() -> None:
        requeue.now(KEY)
        await run_for(requeue, 0.4)

    requeue = Requeue(work, time.monotonic)
    asyncio.run(scene())
    assert calls == 4


def test_a_failure_is_tried_again_and_harms_no_other_key() -> None:
    seen: list[Key] = []

    async def work(key: Key) -> float | None:
        seen.append(key)
        if key == KEY and seen.count(KEY) == 1:
            raise RuntimeError("the API server is away")
        return None

    async def scene() -> None:
        requeue.now(KEY)
        requeue.now(("team-b", "other"))
        await run_for(requeue, 1.5)

    requeue = Requeue(work, time.monotonic)
    asyncio.run(scene())
    assert seen.count(KEY) == 2
    assert seen.count(("team-b", "other")) == 1
    assert requeue.idle_seconds() < 5
