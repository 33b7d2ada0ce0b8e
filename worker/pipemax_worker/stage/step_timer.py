"""Where a micro-batch's time went, by the clock of whoever computed it."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import torch


class StepTimes(NamedTuple):
    """As in ``contract.messages.StageReport``."""

    compute_seconds: float = 0.0
    stall_seconds: float = 0.0
    wait_seconds: float = 0.0


class StepTimer(Protocol):
    """Told of a micro-batch's points in their order."""

    def copies_wanted(self) -> None:
        """The step goes no further without its copies."""
        ...

    def copies_landed(self) -> None:
        """The host has waited for copies, or has told the device to."""
        ...

    def inputs_known(self) -> None:
        """The host has waited for fed-back tokens; what the neighbour sends may still be on its
        way."""
        ...

    def received(self) -> None: ...

    def computed(self) -> None:
        """All of the step has been launched."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether the device has computed the step."""
        ...

    def finish(self) -> StepTimes:
        """Wait until it has."""
        ...


class HostTimer:
    """On a CPU a launched step is a computed one."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def copies_wanted(self) -> None:
        self._mark()

    def copies_landed(self) -> None:
        self._mark()

    def inputs_known(self) -> None:
        pass

    def received(self) -> None:
        self._mark()

    def computed(self) -> None:
        self._mark()

    @property
    def is_done(self) -> bool:
        return True

    def finish(self) -> StepTimes:
        start, landed, received, computed = self._marks
        return StepTimes(computed - received, landed - start, received - landed)

    def _mark(self) -> None:
        self._marks.append(time.perf_counter())


class DeviceTimer:
    """On a GPU the host launches steps ahead: what it waits for costs time only as far as the GPU
    has nothing to do meanwhile, which is from ``previous`` step's end to this one's begin."""

    def __init__(self, device: torch.device, previous: DeviceTimer | None) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._previous_end: torch.cuda.Event | None = None if previous is None else previous._end
        self._wanted, self._landed = _timing_event(), _timing_event()
        self._begin = _timing_event()
        self._received = _timing_event()
        self._end: torch.cuda.Event = _timing_event()
        self._landed_at = self._token_wait_seconds = 0.0

    def copies_wanted(self) -> None:
        self._wanted.record(self._stream)

    def copies_landed(self) -> None:
        self._landed.record(self._stream)
        self._landed_at = time.perf_counter()

    def inputs_known(self) -> None:
        self._token_wait_seconds = time.perf_counter() - self._landed_at
        self._begin.record(self._stream)

    def received(self) -> None:
        self._received.record(self._stream)

    def computed(self) -> None:
        self._end.record(self._stream)

    @property
    def is_done(self) -> bool:
        return bool(self._end.query())  # type: ignore[no-untyped-call]

    def finish(self) -> StepTimes:
        self._end.synchronize()
        idle_seconds = float("inf")
        if self._previous_end is not None:
            idle_seconds = max(0.0, _seconds(self._previous_end, self._begin))
            self._previous_end = None  # a chain of timers would keep every event
        # Between the two events the device waits for copies, or for a host that waits for them.
        stall_seconds = min(_seconds(self._wanted, self._landed), idle_seconds)
        token_wait_seconds = min(self._token_wait_seconds, idle_seconds - stall_seconds)
        return StepTimes(
            compute_seconds=_seconds(self._received, self._end),
            stall_seconds=stall_seconds,
            wait_seconds=_seconds(self._begin, self._received) + token_wait_seconds,
        )


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _seconds(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return float(start.elapsed_time(end)) / 1e3
