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

    blocks_host   whether ``receive`` holds up the host until the hidden states are there; else the
                  device waits for them, and the host goes on.
    """

    @property
    def blocks_host(self) -> bool: ...

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        """Send ``hidden`` [num_tokens, hidden_size]. It must not be written to afterwards."""
        ...

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        """The hidden states [num_tokens, hidden_size] of message ``sequence``, when they have
        arrived. Raises InvariantError if the neighbour sent those of another message."""
        ...

    def close(self) -> None: ...


class ZmqChannel:
    """Raw bytes through host memory: the CPU's channel, and that of cards NCCL cannot join.

    Sending is without a copy; receiving copies once, into memory that is aligned for the GEMMs.
    """

    blocks_host = True

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], config: StageConfig, hidden_size: int
    ) -> None:
        self._dtype = getattr(torch, config.dtype)
        self._device = torch.device(config.device)
        self._hidden_size = hidden_size
        self._source = self._target = None
        if config.hidden_in_address is not None:
            self._source = context.socket(zmq.PULL)
            self._source.rcvhwm = HIDDEN_LINK_DEPTH
            self._source.bind(config.hidden_in_address)
        if config.hidden_out_address is not None:
            self._target = context.socket(zmq.PUSH)
            self._target.sndhwm = HIDDEN_LINK_DEPTH
            self._target.linger = 0
            self._target.connect(config.hidden_out_address)

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        assert self._target is not None, "the last stage has nobody to send to"
        payload = hidden.detach().contiguous().cpu().view(torch.uint8).numpy().data
        self._target.send_multipart([_SEQUENCE.pack(sequence), payload], copy=False)

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        assert self._source is not None, "the first stage has nobody to receive from"
        header, payload = self._source.recv_multipart(copy=False)
        hidden = torch.empty(num_tokens, self._hidden_size, dtype=self._dtype)
        target = hidden.view(torch.uint8).numpy().reshape(-1).data
        (arrived,) = _SEQUENCE.unpack(header.bytes)
        if arrived != sequence or len(payload.buffer) != len(target):
            raise InvariantError(
                f"hidden states of message {arrived} ({len(payload.buffer)} bytes) arrived where "
                f"message {sequence} ({len(target)} bytes) was expected"
            )
        target[:] = payload.buffer
        return hidden.to(self._device)

    def close(self) -> None:
        for socket in (self._source, self._target):
            if socket is not None:
                socket.close()
