"""Tokens from the last stage back to the first, past the driver.

**The ring.** Stage 0 may wait here for a token of message s while it runs message t > s. It gets it
because a message asks only for tokens of messages before it, and because nothing that leads to them
waits for stage 0:

- every stage has, or will be sent by the driver, the messages up to s;
- hidden states of messages up to s have left stage 0 already, and the chain behind it is linear;
- the feedback link is never full: its queue has no limit, so the last stage never blocks on it.

A limit on that queue is what would make the ring deadlock: last stage blocked by feedback, hidden
links full, stage 0 blocked on sending. The queue's size is bounded by the driver all the same: at
most one token for each request of the messages in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import zmq

from pipemax_worker.contract.messages import SampledToken
from pipemax_worker.errors import InvariantError


class FedBackTokens(msgspec.Struct, frozen=True, array_like=True):
    """What the last stage sampled for one message."""

    sequence: int
    request_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


_DECODER = msgspec.msgpack.Decoder(FedBackTokens)


class FeedbackReceiver:
    """Stage 0's end: the newest token of each request that has one coming.

    ``socket`` is None where stage 0 is the last stage too; then :meth:`deliver` is called directly.
    """

    def __init__(self, socket: zmq.Socket[bytes] | None) -> None:
        self._socket = socket
        self._expected: dict[int, int] = {}  # request id -> message that samples its next token
        self._tokens: dict[int, tuple[int, int]] = {}  # request id -> (message, token id)

    def expect(self, sequence: int, request_ids: Iterable[int]) -> None:
        """Message ``sequence`` samples a token for each of ``request_ids``."""
        for request_id in request_ids:
            self._expected[request_id] = sequence
        self._receive_arrived()

    def take(self, request_id: int) -> int:
        """The token sampled by the request's last message, waiting for it if need be.

        Raises InvariantError if no message has sampled for this request.
        """
        sequence = self._expected.get(request_id)
        if sequence is None:
            raise InvariantError(f"request {request_id}: no message before this one samples for it")
        while self._tokens.get(request_id, (-1, 0))[0] != sequence:
            if self._socket is None:
                raise InvariantError(f"request {request_id}: message {sequence} sampled no token")
            self.deliver(_DECODER.decode(self._socket.recv()))
        return self._tokens[request_id][1]

    def forget(self, request_ids: Iterable[int]) -> None:
        """Drop finished requests, and what may still arrive for them."""
        for request_id in request_ids:
            self._expected.pop(request_id, None)
            self._tokens.pop(request_id, None)

    def deliver(self, tokens: FedBackTokens) -> None:
        for request_id, token_id in zip(tokens.request_ids, tokens.token_ids, strict=True):
            if self._expected.get(request_id) == tokens.sequence:
                self._tokens[request_id] = (tokens.sequence, token_id)

    def _receive_arrived(self) -> None:
        """Empty the queue even if the driver never asks for fed-back tokens."""
        while self._socket is not None and self._socket.poll(0):
            self.deliver(_DECODER.decode(self._socket.recv()))


class FeedbackSender:
    """The last stage's end of the link, when it is not stage 0."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def deliver(self, tokens: FedBackTokens) -> None:
        self._socket.send(msgspec.msgpack.encode(tokens))


def fed_back(sequence: int, sampled: Sequence[SampledToken]) -> FedBackTokens:
    return FedBackTokens(
        sequence,
        tuple(token.request_id for token in sampled),
        tuple(token.token_id for token in sampled),
    )
