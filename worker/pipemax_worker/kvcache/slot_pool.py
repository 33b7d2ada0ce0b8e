"""The free slots of one tier, and the slots that copies in flight still use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from pipemax_worker.errors import InvariantError


class SlotPool:
    """Hands out slot numbers ``0..num_slots - 1`` of one tier; every operation is O(1) a slot.

    A copy in flight *pins* the slots whose bytes it still reads or writes. A slot released while it
    is pinned is free only after its last ``unpin``: nobody can overwrite it under the copy. Pins
    are kept as one list a copy, and looked into only when a slot is released: copies come and go by
    the hundreds of slots, most of which stay whose they are.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._pins: dict[int, Sequence[int]] = {}
        self._pin_sets: dict[int, frozenset[int]] = {}
        self._released: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def free_slots(self) -> tuple[int, ...]:
        return tuple(self._free)

    @property
    def draining_slots(self) -> frozenset[int]:
        """Released slots that wait for the copies that still use them."""
        return frozenset(self._released)

    @property
    def pins(self) -> Counter[int]:
        """Slot -> how many copies in flight use it."""
        pins: Counter[int] = Counter()
        for slots in self._pins.values():
            pins.update(slots)
        return pins

    def allocate(self, num_slots: int) -> list[int]:
        """Take ``num_slots`` free slots. Raises InvariantError if there are fewer."""
        first = len(self._free) - num_slots
        if first < 0:
            raise InvariantError(
                f"{num_slots} slots asked of a pool with {len(self._free)} free; "
                "make room before allocating"
            )
        slots = self._free[first:]
        del self._free[first:]
        return slots

    def allocate_each(self, sizes: Sequence[int]) -> list[int]:
        """``allocate`` of each size, one after the other; all slots as one list."""
        taken = self.allocate(sum(sizes))
        if len(taken) == len(sizes):
            taken.reverse()
            return taken
        slots: list[int] = []
        end = len(taken)
        for size in sizes:
            slots += taken[end - size : end]
            end -= size
        return slots

    def take(self, slots: Collection[int]) -> None:
        """Take just these slots. Raises InvariantError if one of them is not free."""
        free = [slot for slot in self._free if slot not in slots]
        if len(free) != len(self._free) - len(slots):
            raise InvariantError(f"some of {len(slots)} slots asked for by number are not free")
        self._free = free

    def release(self, slot: int) -> None:
        """Give a slot back: free at once, or when the last copy that uses it is reported."""
        if self.is_pinned(slot):
            self._released.add(slot)
        else:
            self._free.append(slot)

    def release_all(self, slots: Sequence[int]) -> None:
        """``release`` of each, in order."""
        if all([pinned.isdisjoint(slots) for pinned in self._sets()]):
            self._free += slots
            return
        for slot in slots:
            self.release(slot)

    def is_pinned(self, slot: int) -> bool:
        return any([slot in pinned for pinned in self._sets()])

    def _sets(self) -> Collection[frozenset[int]]:
        """One a copy in flight."""
        sets = self._pin_sets
        if len(sets) < len(self._pins):
            for job_id in self._pins.keys() - sets.keys():
                sets[job_id] = frozenset(self._pins[job_id])
        return sets.values()

    def pin(self, job_id: int, slots: Sequence[int]) -> None:
        """The copy ``job_id``, ordered now, uses these slots, which do not change."""
        self._pins[job_id] = slots

    def unpin(self, job_id: int) -> None:
        """The copy ``job_id`` uses its slots no more. Raises InvariantError if it never did."""
        slots = self._pins.pop(job_id, None)
        self._pin_sets.pop(job_id, None)
        if slots is None:
            raise InvariantError(f"copy {job_id} gives up slots that it does not use")
        if self._released and not self._released.isdisjoint(slots):
            drained = [s for s in slots if s in self._released and not self.is_pinned(s)]
            self._released.difference_update(drained)
            self._free += drained
