"""Sequences as two numbers each, and the host buffer that phases hand them over in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec


class Sequence(msgspec.Struct, frozen=True, gc=False):
    """A prefilled request: positions with KV, and tokens that it will still generate."""

    num_tokens: int
    num_remaining: int


class HostBuffer:
    """KV in the host's memory, first in, first out. ``num_tokens`` never exceeds ``capacity`` by
    what ``add`` lets in; what ``give_back`` returns has been in it before and is always taken."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_tokens = 0
        self._sequences: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def first(self) -> Sequence:
        return self._sequences[0]

    def has_room(self, num_tokens: int) -> bool:
        """Whoever comes into an empty buffer has."""
        return not self._sequences or self.num_tokens + num_tokens <= self.capacity

    def add(self, sequence: Sequence) -> None:
        self._sequences.append(sequence)
        self.num_tokens += sequence.num_tokens

    def give_back(self, sequences: Iterable[Sequence]) -> None:
        """To the front, the oldest first."""
        for sequence in reversed(list(sequences)):
            self._sequences.appendleft(sequence)
            self.num_tokens += sequence.num_tokens

    def take(self) -> Sequence:
        sequence = self._sequences.popleft()
        self.num_tokens -= sequence.num_tokens
        return sequence
