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

SEQUENCE = struct.Struct("<q")
"""What goes before a payload: the number of its message."""


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


Sockets = tuple[zmq.Socket[bytes] | None, zmq.Socket[bytes] | None]


def open_hidden_sockets(context: zmq.Context[zmq.Socket[bytes]], config: StageConfig) -> Sockets:
    """From the stage before and to the stage after, as far as there is one."""
    source = target = None
    if config.hidden_in_address is not None:
        source = context.socket(zmq.PULL)
        source.rcvhwm = HIDDEN_LINK_DEPTH
        source.bind(config.hidden_in_address)
    if config.hidden_out_address is not None:
        target = context.socket(zmq.PUSH)
        target.sndhwm = HIDDEN_LINK_DEPTH
        target.linger = 0
        target.connect(config.hidden_out_address)
    return source, target


def refuse_other_message(arrived: int, num_bytes: int, sequence: int, expected_bytes: int) -> None:
    """Raises InvariantError if what arrived is not message ``sequence`` of that size."""
    if arrived != sequence or num_bytes != expected_bytes:
        raise InvariantError(
            f"hidden states of message {arrived} ({num_bytes} bytes) arrived where "
            f"message {sequence} ({expected_bytes} bytes) was expected"
        )


class ZmqChannel:
    """Raw bytes through host memory: the CPU's channel.

    Sending is without a copy; receiving copies once, into memory that is aligned for the GEMMs.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], config: StageConfig, hidden_size: int
    ) -> None:
        self._dtype = getattr(torch, config.dtype)
        self._hidden_size = hidden_size
        self._source, self._target = open_hidden_sockets(context, config)

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        assert self._target is not None, "the last stage has nobody to send to"
        payload = hidden.detach().contiguous().view(torch.uint8).numpy().data
        self._target.send_multipart([SEQUENCE.pack(sequence), payload], copy=False)

    def has_arrived(self) -> bool:
        assert self._source is not None, "the first stage has nobody to receive from"
        return bool(self._source.poll(0))

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        assert self._source is not None, "the first stage has nobody to receive from"
        header, payload = self._source.recv_multipart(copy=False)
        hidden = torch.empty(num_tokens, self._hidden_size, dtype=self._dtype)
        target = hidden.view(torch.uint8).numpy().reshape(-1).data
        (arrived,) = SEQUENCE.unpack(header.bytes)
        refuse_other_message(arrived, len(payload.buffer), sequence, len(target))
        target[:] = payload.buffer
        return hidden

    def close(self) -> None:
        for socket in (self._source, self._target):
            if socket is not None:
                socket.close()
