"""Sampled tokens that the next message needs before the host has seen them.

A pipeline of one stage is its own neighbour: where it launches a message while the one before is
still being computed, that one's tokens are on the device alone. They are kept there in a ring of
two rows, and the next message is told where.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

RING_ROWS = 2
"""The message being computed, and the one launched behind it."""


class DeviceTokens:
    """``ring`` [RING_ROWS, max tokens of a message] int32; its memory is the model's, whose
    captured graphs read from it."""

    def __init__(self, ring: torch.Tensor) -> None:
        self._ring = ring
        self._next_row = 0
        self._places: dict[int, tuple[int, int]] = {}  # request id -> (message, place)

    @property
    def max_tokens(self) -> int:
        """Of one message."""
        return self._ring.shape[1]

    def put(self, sequence: int, request_ids: Sequence[int], token_ids: torch.Tensor) -> None:
        """What message ``sequence`` sampled, in the order of its rows."""
        row = self._next_row
        self._next_row = (row + 1) % RING_ROWS
        self._ring[row, : len(request_ids)].copy_(token_ids)
        for index, request_id in enumerate(request_ids):
            self._places[request_id] = (sequence, row * self.max_tokens + index)

    def place_of(self, request_id: int) -> int | None:
        """Where in the flat ring the request's newest token is; None once the host knows it."""
        found = self._places.get(request_id)
        return None if found is None else found[1]

    def forget(self, sequence: int, request_ids: Sequence[int]) -> None:
        """The host has seen what message ``sequence`` sampled."""
        for request_id in request_ids:
            if self._places.get(request_id, (-1, 0))[0] == sequence:
                del self._places[request_id]
