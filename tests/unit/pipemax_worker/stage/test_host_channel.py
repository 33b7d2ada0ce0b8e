"""Hidden states through host memory, between devices whose steps end when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
import torch
import zmq
from kit.pipeline_driver import make_configs, make_settings
from pipemax_worker.errors import InvariantError, StageDiedError
from pipemax_worker.stage.channel import HIDDEN_LINK_DEPTH
from pipemax_worker.stage.host_channel import DeviceCopies, HostChannel

HIDDEN_SIZE = 24
LIMIT_SECONDS = 60.0


class Step:
    """The end of what a device does; copies behind it are done by then."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.fault: Exception | None = None

    def synchronize(self) -> None:
        assert self.ended.wait(LIMIT_SECONDS)
        if self.fault is not None:
            raise self.fault


class Device:
    """Host memory that looks like a device's. ``runs``: steps end as soon as they are launched."""

    def __init__(self) -> None:
        self.runs = True
        self.steps: list[Step] = []
        self.copies = DeviceCopies(torch.device("cpu"), self.allocate, self.copy, self.mark)

    def allocate(self, num_words: int) -> torch.Tensor:
        return torch.full((num_words,), -1, dtype=torch.int32)

    def copy(self, target: torch.Tensor, source: torch.Tensor, num_words: int) -> None:
        target[:num_words] = source[:num_words]

    def mark(self) -> Step:
        step = Step()
        if self.runs:
            step.ended.set()
        self.steps.append(step)
        return step


MakeChannel = Callable[[int, Device], HostChannel]


@pytest.fixture
def make_channel() -> Iterator[MakeChannel]:
    """Of stage 0 or 1 of two."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[tuple[HostChannel, Device]] = []
    first, last = make_configs(make_settings(2))
    configs = (
        msgspec.structs.replace(first, dtype="bfloat16", hidden_out_address="inproc://hidden"),
        msgspec.structs.replace(last, dtype="bfloat16", hidden_in_address="inproc://hidden"),
    )

    def make(stage: int, device: Device) -> HostChannel:
        channel = HostChannel(context, configs[stage], HIDDEN_SIZE, device.copies)
        made.append((channel, device))
        return channel

    yield make
    for channel, device in made:
        for step in device.steps:
            step.ended.set()
        channel.close()
    context.destroy(linger=0)


def hidden_of(sequence: int, num_tokens: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sequence)
    return torch.randn(num_tokens, HIDDEN_SIZE, generator=generator).bfloat16()


def wait_for_arrival(channel: HostChannel) -> None:
    deadline = threading.Event()
    timer = threading.Timer(LIMIT_SECONDS, deadline.set)
    timer.start()
    while not channel.has_arrived():
        assert not deadline.is_set(), "nothing has arrived"
    timer.cancel()


def test_messages_arrive_unchanged_and_in_order(make_channel: MakeChannel) -> None:
    receiver, sender = make_channel(1, Device()), make_channel(0, Device())
    for sequence in range(3 * HIDDEN_LINK_DEPTH):
        sender.send(hidden_of(sequence, 1 + sequence), sequence)
        arrived = receiver.receive(1 + sequence, sequence)
        assert torch.equal(arrived, hidden_of(sequence, 1 + sequence))


def test_a_message_leaves_when_its_step_has_ended_and_the_host_does_not_wait(
    make_channel: MakeChannel,
) -> None:
    device = Device()
    device.runs = False
    receiver, sender = make_channel(1, Device()), make_channel(0, device)
    for sequence in range(2):
        sender.send(hidden_of(sequence), sequence)
    assert not receiver.has_arrived()
    device.steps[0].ended.set()
    wait_for_arrival(receiver)
    assert torch.equal(receiver.receive(3, 0), hidden_of(0))
    assert not receiver.has_arrived()
    device.steps[1].ended.set()
    assert torch.equal(receiver.receive(3, 1), hidden_of(1))


def test_what_is_read_is_not_overwritten_before_the_device_has_read_it(
    make_channel: MakeChannel,
) -> None:
    device = Device()
    receiver, sender = make_channel(1, device), make_channel(0, Device())
    device.runs = False
    for sequence in range(HIDDEN_LINK_DEPTH):
        sender.send(hidden_of(sequence), sequence)
        receiver.receive(3, sequence)
    sender.send(hidden_of(99), HIDDEN_LINK_DEPTH)
    taken = threading.Event()

    def take() -> None:
        receiver.receive(3, HIDDEN_LINK_DEPTH)
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.1)
    device.steps[0].ended.set()
    assert taken.wait(LIMIT_SECONDS)
    thread.join()


def test_stages_out_of_step_are_found(make_channel: MakeChannel) -> None:
    receiver, sender = make_channel(1, Device()), make_channel(0, Device())
    sender.send(hidden_of(7), 7)
    with pytest.raises(InvariantError, match=r"message 7 \(144 bytes\) arrived where message 8"):
        receiver.receive(3, 8)


def test_a_step_that_failed_is_told_by_the_next_message(make_channel: MakeChannel) -> None:
    device = Device()
    device.runs = False
    make_channel(1, Device())
    sender = make_channel(0, device)
    for sequence in range(HIDDEN_LINK_DEPTH):
        sender.send(hidden_of(sequence), sequence)
    device.steps[0].fault = RuntimeError("an illegal memory access")
    for step in device.steps:
        step.ended.set()
    with pytest.raises(StageDiedError, match="an illegal memory access"):
        sender.send(hidden_of(4), HIDDEN_LINK_DEPTH)
