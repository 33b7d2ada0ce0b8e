"""Whose turn it is: one count for the scheduler and for whoever takes turns in its place."""

from __future__ import annotations

from collections.abc import Iterator

# Who was preempted in vain has made room for others, who was admitted in vain may run elsewhere.
# Two passes settle nearly all turns; the bound is for what nobody has thought of.
MAX_PASSES = 8
"""Over all micro-batches, to find whose turn it is."""


class TurnCounter:
    """Micro-batches take turns in cyclic order.

    next_sequence         of the next message.
    next_micro_batch_id   that is asked first.
    num_in_flight         messages whose outputs have not come back.
    """

    def __init__(self, num_micro_batches: int) -> None:
        self.next_sequence = 0
        self.next_micro_batch_id = 0
        self.num_in_flight = 0
        self._num_micro_batches = num_micro_batches

    def order(self) -> Iterator[int]:
        """The micro-batches as they are asked for the next message."""
        first, num = self.next_micro_batch_id, self._num_micro_batches
        return iter((*range(first, num), *range(first)))

    def note_sent(self, micro_batch_id: int, *, has_rows: bool) -> None:
        """A message is sent; without rows it was nobody's turn."""
        self.next_sequence += 1
        self.num_in_flight += 1
        if has_rows:
            self.next_micro_batch_id = (micro_batch_id + 1) % self._num_micro_batches
