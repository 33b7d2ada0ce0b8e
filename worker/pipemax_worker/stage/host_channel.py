"""Hidden states from card to card through host memory, for cards that NCCL does not join.

A kernel writes what leaves into pinned memory, and a kernel reads what has arrived there: a copy
engine works in order, and its copy would wait for all KV that is being loaded (``word_copy``). A
thread waits for the end of each step and sends what it has left, so that the host goes on to the
next message meanwhile.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import zmq

from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.errors import StageDiedError
from pipemax_worker.stage.channel import HIDDEN_LINK_DEPTH, HiddenSockets


class Event(Protocol):
    def synchronize(self) -> None: ...


@dataclass(frozen=True)
class DeviceCopies:
    """What a channel asks of its device; ``cuda_copies`` and, in tests, one in host memory.

    allocate   pinned int32 words.
    copy       the first n words of one tensor into another, behind what the device has to do.
    mark       an event behind that.
    """

    device: torch.device
    allocate: Callable[[int], torch.Tensor]
    copy: Callable[[torch.Tensor, torch.Tensor, int], None]
    mark: Callable[[], Event]


def cuda_copies(device: torch.device) -> DeviceCopies:
    from pipemax_worker.stage.model.cuda.word_copy import copy_words

    def mark() -> Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
        event.record()
        return event

    def allocate(num_words: int) -> torch.Tensor:
        return torch.empty(num_words, dtype=torch.int32, pin_memory=True)

    return DeviceCopies(device, allocate, copy_words, mark)


class HostChannel:
    """The links of one stage, as ``channel.ActivationChannel`` says."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        config: StageConfig,
        hidden_size: int,
        copies: DeviceCopies,
    ) -> None:
        self._dtype = getattr(torch, config.dtype)
        self._hidden_size = hidden_size
        self._copies = copies
        self._sockets = sockets = HiddenSockets(context, config)
        num_words = config.max_batched_tokens * self._words_per_token
        self._incoming = _Slots(copies, num_words if sockets.source is not None else 0)
        self._sender = None if sockets.target is None else _Sender(copies, num_words, sockets)

    @property
    def _words_per_token(self) -> int:
        return self._hidden_size * int(self._dtype.itemsize) // 4

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        assert self._sender is not None, "the last stage has nobody to send to"
        self._sender.send(hidden.detach().contiguous().view(torch.int32).flatten(), sequence)

    def has_arrived(self) -> bool:
        return self._sockets.has_arrived()

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        num_words = num_tokens * self._words_per_token
        payload = self._sockets.take(4 * num_words, sequence)
        slot = self._incoming.next()
        slot.words[:num_words].numpy().view("u1").data[:] = payload
        shape = (num_tokens, self._hidden_size)
        hidden = torch.empty(shape, dtype=self._dtype, device=self._copies.device)
        self._copies.copy(hidden.view(torch.int32).flatten(), slot.words, num_words)
        slot.last_use = self._copies.mark()
        return hidden

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()
        self._sockets.close()


class _Slot:
    """Pinned words, and the end of what the device last did with them."""

    def __init__(self, words: torch.Tensor) -> None:
        self.words = words
        self.last_use: Event | None = None


class _Slots:
    """As many as a link is deep, in turn."""

    def __init__(self, copies: DeviceCopies, num_words: int) -> None:
        self._slots = [_Slot(copies.allocate(num_words)) for _ in range(HIDDEN_LINK_DEPTH)]
        self._number = -1

    def next(self) -> _Slot:
        self._number = (self._number + 1) % len(self._slots)
        slot = self._slots[self._number]
        if slot.last_use is not None:
            slot.last_use.synchronize()
        return slot


@dataclass(frozen=True)
class _Leaving:
    slot: _Slot
    num_words: int
    sequence: int
    end: Event


class _Sender:
    """Sends each message when its step has ended; its thread alone puts what leaves."""

    def __init__(self, copies: DeviceCopies, num_words: int, sockets: HiddenSockets) -> None:
        self._copies, self._sockets = copies, sockets
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(HIDDEN_LINK_DEPTH):
            self._free.put(_Slot(copies.allocate(num_words)))
        self._leaving: queue.SimpleQueue[_Leaving | None] = queue.SimpleQueue()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="pipemax-hidden", daemon=True)
        self._thread.start()

    def send(self, words: torch.Tensor, sequence: int) -> None:
        """Blocks while as many messages as a link is deep have not been taken."""
        slot = self._free.get()
        if self._fault is not None:
            raise StageDiedError(f"hidden states could not be sent: {self._fault}")
        self._copies.copy(slot.words, words, len(words))
        self._leaving.put(_Leaving(slot, len(words), sequence, self._copies.mark()))

    def close(self) -> None:
        self._leaving.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (one := self._leaving.get()) is not None:
            try:
                if self._fault is None:
                    one.end.synchronize()
                    payload = one.slot.words[: one.num_words].numpy().view("u1").data
                    self._sockets.put(payload, one.sequence, copy=True)
            except Exception as error:
                self._fault = error  # the stage's own thread says so at its next message
            self._free.put(one.slot)
