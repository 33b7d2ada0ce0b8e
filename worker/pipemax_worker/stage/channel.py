"""How hidden states get from one stage to the next.

The chain is linear and every stage runs the same messages in the same order, so blocking sends and
receives cannot deadlock by themselves: stage k waits only for stage k-1 to compute or for stage
k+1 to take what was sent. The way back, tokens from the last stage to the first, closes a ring;
``feedback`` says why that is safe too.
"""

from __future__ import annotations

import struct
from typing import Protocol

import torch
import zmq

from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.errors import InvariantError

HIDDEN_LINK_DEPTH = 4
"""Micro-batches that either end of a hidden link holds before ``send`` blocks. It bounds memory:
at most ``2 * HIDDEN_LINK_DEPTH * max_batched_tokens * hidden_size`` elements a link."""

_SEQUENCE = struct.Struct("<q")


class ActivationChannel(Protocol):
    """The links of one stage to its neighbours. The last stage never sends, the first never
    receives.
    """

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        """Send ``hidden`` [num_tokens, hidden_size]. It must not be written to afterwards."""
        ...

    def has_arrived(self) -> bool:
        """Whether ``receive`` would hold up the host no longer: the hidden states are there, or the
        device is what waits for them."""
        ...

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        """The hidden states [num_tokens, hidden_size] of message ``sequence``, when they have
        arrived. Raises InvariantError if the neighbour sent those of another message."""
        ...

    def close(self) -> None: ...


class HiddenSockets:
    """From the stage before and to the stage after, as far as there is one: each message is its
    number and a payload. One thread takes, one puts."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], config: StageConfig) -> None:
        self.source: zmq.Socket[bytes] | None = None
        self.target: zmq.Socket[bytes] | None = None
        if config.hidden_in_address is not None:
            self.source = context.socket(zmq.PULL)
            self.source.rcvhwm = HIDDEN_LINK_DEPTH
            self.source.bind(config.hidden_in_address)
        if config.hidden_out_address is not None:
            self.target = context.socket(zmq.PUSH)
            self.target.sndhwm = HIDDEN_LINK_DEPTH
            self.target.linger = 0
            self.target.connect(config.hidden_out_address)

    def put(self, payload: memoryview, sequence: int, *, copy: bool) -> None:
        """``copy``: else ``payload`` must not be written to afterwards."""
        assert self.target is not None, "the last stage has nobody to send to"
        self.target.send_multipart([_SEQUENCE.pack(sequence), payload], copy=copy)

    def has_arrived(self) -> bool:
        return bool(self._the_source.poll(0))

    def take(self, num_bytes: int, sequence: int) -> memoryview:
        """The payload of message ``sequence``. Raises InvariantError if what arrives is not that,
        or not of that size."""
        header, payload = self._the_source.recv_multipart(copy=False)
        (arrived,) = _SEQUENCE.unpack(header.bytes)
        if arrived != sequence or len(payload.buffer) != num_bytes:
            raise InvariantError(
                f"hidden states of message {arrived} ({len(payload.buffer)} bytes) arrived where "
                f"message {sequence} ({num_bytes} bytes) was expected"
            )
        return payload.buffer

    def close(self) -> None:
        for socket in (self.source, self.target):
            if socket is not None:
                socket.close()

    @property
    def _the_source(self) -> zmq.Socket[bytes]:
        assert self.source is not None, "the first stage has nobody to receive from"
        return self.source


class ZmqChannel:
    """Raw bytes through host memory: the CPU's channel.

    Sending is without a copy; receiving copies once, into memory that is aligned for the GEMMs.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], config: StageConfig, hidden_size: int
    ) -> None:
        self._dtype = getattr(torch, config.dtype)
        self._hidden_size = hidden_size
        self._sockets = HiddenSockets(context, config)

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        payload = hidden.detach().contiguous().view(torch.uint8).numpy().data
        self._sockets.put(payload, sequence, copy=False)

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        hidden = torch.empty(num_tokens, self._hidden_size, dtype=self._dtype)
        target = hidden.view(torch.uint8).numpy().reshape(-1).data
        target[:] = self._sockets.take(len(target), sequence)
        return hidden

    def has_arrived(self) -> bool:
        return self._sockets.has_arrived()

    def close(self) -> None:
        self._sockets.close()
