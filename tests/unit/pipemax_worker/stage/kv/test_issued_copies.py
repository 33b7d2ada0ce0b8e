"""Copies that the device carries out by itself: what is launched next waits for them on the device,
the host only until they are issued. A stand-in for the GPU's streams and events."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from kit.kv_tiers import copy_job, make_tiers
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.stage.kv import mover as mover_module
from pipemax_worker.stage.kv.copiers import Copier, CopyOutcome, IssuedCopy, MemoryCopier
from pipemax_worker.stage.kv.mover import KVMover

D, H = Tier.DEVICE, Tier.HOST
LOADS = (H, D)


@dataclass
class Event:
    """Recorded behind a copy; the "device" is done with it when told."""

    done: threading.Event = field(default_factory=threading.Event)


class Copies:
    """A copier of one link: holds what it has issued until it is told to go on."""

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}
        self.may_issue = threading.Event()
        self.may_issue.set()
        self.error: Exception | None = None

    def mark(self) -> None:
        return None

    def copy(self, job: CopyJob, mark: object) -> CopyOutcome:
        return self.finish(self.issue(job, mark))

    def issue(self, job: CopyJob, mark: object) -> IssuedCopy:
        assert self.may_issue.wait(20)
        if self.error is not None:
            raise self.error
        event = self.events[job.job_id] = Event()
        return IssuedCopy(event, event)  # type: ignore[arg-type]

    def finish(self, issued: IssuedCopy) -> CopyOutcome:
        assert issued.end.done.wait(20)  # type: ignore[attr-defined]
        return CopyOutcome(0.5)


@dataclass
class Stream:
    waited_for: list[Event] = field(default_factory=list)

    def wait_event(self, event: Event) -> None:
        self.waited_for.append(event)


@dataclass
class Device:
    mover: KVMover
    copies: Copies
    stream: Stream


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    copies, stream = Copies(), Stream()

    def build_copiers(device_kv: object, host_kv: object, nvme: None) -> dict[object, Copier]:
        rows = torch.zeros(8, 4096, dtype=torch.uint8)
        return {LOADS: copies, (D, H): MemoryCopier(rows, rows.clone())}

    monkeypatch.setattr(mover_module, "_build_copiers", build_copiers)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    device_kv, host_kv, nvme = make_tiers(tmp_path)
    mover = KVMover(device_kv, host_kv, None)
    yield Device(mover, copies, stream)
    for event in copies.events.values():
        event.done.set()
    mover.close()
    nvme.close()


def load(job_id: int) -> CopyJob:
    return copy_job(job_id, *LOADS, [job_id], [job_id])


def test_the_host_goes_on_before_a_copy_has_landed(device: Device) -> None:
    device.mover.submit([load(1)])
    device.mover.wait_before_launch([1])
    event = device.copies.events[1]
    assert device.stream.waited_for == [event]
    assert not event.done.is_set()
    assert device.mover.get_finished() == []
    event.done.set()
    device.mover.wait([1])
    assert [result.seconds for result in device.mover.get_finished()] == [0.5]


def test_it_waits_until_the_copy_is_issued(device: Device) -> None:
    device.copies.may_issue.clear()
    device.mover.submit([load(1)])
    launched = threading.Event()

    def launch() -> None:
        device.mover.wait_before_launch([1])
        launched.set()

    thread = threading.Thread(target=launch)
    thread.start()
    assert not launched.wait(0.05)
    device.copies.may_issue.set()
    thread.join(20)
    assert launched.is_set()
    assert device.stream.waited_for == [device.copies.events[1]]


def test_what_has_landed_needs_no_wait(device: Device) -> None:
    device.mover.wait_before_launch([99])
    assert device.stream.waited_for == []


def test_other_links_are_waited_for_by_the_host(device: Device) -> None:
    device.mover.submit([copy_job(1, D, H, [0], [0])])
    device.mover.wait_before_launch([1])
    assert [result.job_id for result in device.mover.get_finished()] == [1]
    assert device.stream.waited_for == []


def test_a_copy_that_cannot_be_issued_is_raised(device: Device) -> None:
    device.copies.error = RuntimeError("the link is down")
    device.copies.may_issue.clear()
    device.mover.submit([load(1)])
    device.copies.may_issue.set()
    with pytest.raises(RuntimeError, match="the link is down"):
        device.mover.wait_before_launch([1])
