"""The lease: one leads at a time, by clocks of its own, and stops before another starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.fake_api_server import FakeApiServer
from kit.turns import settle
from pipemax_operator.api_server import WRITE_TIMEOUT_SECONDS, ForbiddenError, NotLeadingError
from pipemax_operator.leadership import LeaseLeadership, LeaseTiming, Standalone, may_take

PATH = "/apis/coordination.k8s.io/v1/namespaces/ops/leases/pipemax"
QUICK = LeaseTiming(duration_seconds=15.0, renew_deadline_seconds=10.0, retry_seconds=0.005)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def leadership(api: FakeApiServer, identity: str, clock: Clock) -> LeaseLeadership:
    return LeaseLeadership(api, "ops", "pipemax", identity, clock, QUICK)  # type: ignore[arg-type]


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 120))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("holder", "unchanged", "free"),
    [
        ("", 0.0, True),
        ("me", 0.0, True),
        ("other", 14.9, False),
        ("other", 15.1, True),
    ],
)
def test_who_may_take_a_lease(holder: str, unchanged: float, free: bool) -> None:
    spec: dict[str, Any] = {"holderIdentity": holder, "leaseDurationSeconds": 15}
    assert may_take({"spec": spec}, "me", unchanged) is free


def test_one_leads_and_the_other_follows_when_it_is_silent() -> None:
    api, clock = FakeApiServer(), Clock()
    one, two = leadership(api, "one", clock), leadership(api, "two", clock)

    async def scene() -> None:
        first = asyncio.create_task(one.run())
        await one.wait(True)
        second = asyncio.create_task(two.run())
        await settle()
        assert not two.is_leading
        first.cancel()  # as a SIGKILL: nothing is left in order
        await settle()  # the other has seen its last renewal, at 0 s
        clock.now = 14.0
        await settle()
        assert not two.is_leading
        clock.now = 16.0
        await two.wait(True)
        assert api.objects[PATH]["spec"]["holderIdentity"] == "two"
        assert api.objects[PATH]["spec"]["leaseTransitions"] == 1
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)

    play(scene)


def test_a_holder_that_cannot_renew_stops_before_others_may_start() -> None:
    api, clock = FakeApiServer(), Clock()
    one = leadership(api, "one", clock)

    async def scene() -> None:
        task = asyncio.create_task(one.run())
        await one.wait(True)
        assert one.fence() == WRITE_TIMEOUT_SECONDS
        api.fault = TimeoutError()
        clock.now = 9.0
        assert one.fence() == 6.0  # until others may take it
        clock.now = 10.0
        with pytest.raises(NotLeadingError, match="one does not hold"):
            one.fence()
        await one.wait(False)
        api.fault = None
        await one.wait(True)  # nobody has taken it: it goes on
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(scene)


def test_a_lease_that_is_left_is_taken_at_once() -> None:
    api, clock = FakeApiServer(), Clock()
    one, two = leadership(api, "one", clock), leadership(api, "two", clock)

    async def scene() -> None:
        first = asyncio.create_task(one.run())
        await one.wait(True)
        second = asyncio.create_task(two.run())
        await settle()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await one.release()
        with pytest.raises(NotLeadingError):
            one.fence()
        await two.wait(True)  # the clock has not moved
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    play(scene)


def test_the_same_identity_goes_on_at_once() -> None:
    api, clock = FakeApiServer(), Clock()

    async def scene() -> None:
        for _ in range(2):
            task = asyncio.create_task((again := leadership(api, "pod-a", clock)).run())
            await again.wait(True)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert api.objects[PATH]["spec"]["leaseTransitions"] == 0

    play(scene)


def test_a_lease_taken_by_hand_ends_the_leading() -> None:
    api, clock = FakeApiServer(), Clock()
    one = leadership(api, "one", clock)

    async def scene() -> None:
        task = asyncio.create_task(one.run())
        await one.wait(True)
        spec = {"holderIdentity": "an admin", "leaseDurationSeconds": 15}
        api.put(PATH, {"kind": "Lease", "metadata": {"name": "pipemax"}, "spec": spec})
        await one.wait(False)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(scene)


def test_a_right_that_lacks_is_said_and_nothing_is_done(caplog: pytest.LogCaptureFixture) -> None:
    api, clock = FakeApiServer(), Clock()
    api.fault = ForbiddenError('cannot get resource "leases"')
    one = leadership(api, "one", clock)

    async def scene() -> None:
        task = asyncio.create_task(one.run())
        await settle()
        assert not one.is_leading
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(scene)
    assert 'leader election lacks a right, nothing is done without: cannot get resource "lea' in (
        caplog.text
    )


def test_alone_by_arrangement() -> None:
    alone = Standalone()
    assert alone.is_leading
    assert alone.fence() > 0
    play(lambda: alone.wait(True))
    play(alone.release)


def test_the_proportions_of_a_shorter_lease() -> None:
    assert LeaseTiming.of_duration(15.0) == LeaseTiming()
    short = LeaseTiming.of_duration(3.0)
    assert (short.renew_deadline_seconds, short.retry_seconds) == (2.0, 0.4)
