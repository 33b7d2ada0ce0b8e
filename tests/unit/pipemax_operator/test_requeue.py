"""The queue of keys: each at most once at work, none forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from kit.turns import settle, until
from pipemax_operator.api_server import NotLeadingError
from pipemax_operator.requeue import Key, Requeue

KEY = ("team-a", "reviews")


async def run_until(requeue: Requeue, is_done: Callable[[], bool]) -> None:
    """And some turns longer: what comes too often would come then."""
    task = asyncio.create_task(requeue.run())
    await until(is_done)
    await settle()
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
        await run_until(requeue, lambda: calls == 2 and not at_work)

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
        await run_until(requeue, lambda: calls == 4)

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
        await run_until(requeue, lambda: seen.count(KEY) == 2)

    requeue = Requeue(work, time.monotonic)
    asyncio.run(scene())
    assert seen.count(KEY) == 2
    assert seen.count(("team-b", "other")) == 1
    assert requeue.idle_seconds() < 5


def test_keys_that_come_by_the_clock_are_paced_and_named_ones_are_not() -> None:
    seen: list[Key] = []
    now = 0.0

    async def work(key: Key) -> float | None:
        seen.append(key)
        return 0.0 if key[0] == "polled" else None

    def num_seen(kind: str) -> int:
        return len([key for key in seen if key[0] == kind])

    async def scene() -> None:
        nonlocal now
        for number in range(5):
            requeue.now(("polled", str(number)))
        task = asyncio.create_task(requeue.run())
        await until(lambda: num_seen("polled") >= 9)
        await settle()
        assert num_seen("polled") == 9  # five that were named, and four on credit
        for second in (1, 2):
            now = float(second)
            await until(lambda second=second: num_seen("polled") >= 9 + 4 * second)
            await settle()
            assert num_seen("polled") == 9 + 4 * second
        for number in range(30):
            requeue.now(("named", str(number)))
        await until(lambda: num_seen("named") == 30)
        assert num_seen("polled") == 9 + 4 * 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    requeue = Requeue(work, lambda: now, max_scheduled_per_second=4)
    asyncio.run(scene())
    assert len(requeue) == 5


def test_what_is_cancelled_at_work_waits_for_the_next_run() -> None:
    begun: list[Key] = []

    async def work(key: Key) -> float | None:
        begun.append(key)
        if len(begun) == 1:
            await asyncio.sleep(60)
        return None

    async def scene() -> None:
        requeue.now(KEY)
        await run_until(requeue, lambda: bool(begun))
        assert requeue.idle_seconds() == 0  # it need not turn now
        requeue.now(("team-b", "other"))
        await run_until(requeue, lambda: len(begun) == 3)

    requeue = Requeue(work, time.monotonic)
    asyncio.run(scene())
    assert sorted(begun) == [KEY, KEY, ("team-b", "other")]


def test_who_does_not_lead_keeps_the_key_and_blames_nobody() -> None:
    calls = 0

    async def work(_: Key) -> float | None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise NotLeadingError("another leads")
        return None

    async def scene() -> None:
        requeue.now(KEY)
        await run_until(requeue, lambda: calls == 3)

    requeue = Requeue(work, time.monotonic)
    asyncio.run(scene())
    assert calls == 3


@pytest.mark.parametrize("turns", range(6))
def test_a_stop_in_the_same_turn_as_a_wake_up_is_heard(turns: int) -> None:
    async def work(_: Key) -> float | None:
        return None

    async def scene() -> None:
        task = asyncio.create_task(requeue.run())
        await asyncio.sleep(0.05)
        requeue.now(KEY)
        for _turn in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _waiting = await asyncio.wait({task}, timeout=30.0)
        task.cancel()
        assert task in done

    requeue = Requeue(work, time.monotonic)
    asyncio.run(scene())
