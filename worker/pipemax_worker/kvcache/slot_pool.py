"""The free slots of one tier, and the slots that copies in flight still use."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipemax_worker.errors import InvariantError


class SlotPool:
    """Hands out slot numbers ``0..num_slots - 1`` of one tier; every operation is O(1) a slot.

    A copy in flight *pins* the slots whose bytes it still reads or writes. A slot released while it
    is pinned is free only after its last ``unpin``: nobody can overwrite it under the copy.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._pinned: set[int] = set()
        self._more_pins: dict[int, int] = {}
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
    def pins(self) -> dict[int, int]:
        """Slot -> how many copies in flight use it."""
        return {slot: 1 + self._more_pins.get(slot, 0) for slot in self._pinned}

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

    def take(self, slots: Collection[int]) -> None:
        """Take just these slots. Raises InvariantError if one of them is not free."""
        free = [slot for slot in self._free if slot not in slots]
        if len(free) != len(self._free) - len(slots):
            raise InvariantError(f"some of {len(slots)} slots asked for by number are not free")
        self._free = free

    def release(self, slot: int) -> None:
        """Give a slot back: free at once, or when the last copy that uses it is reported."""
        if slot in self._pinned:
            self._released.add(slot)
        else:
            self._free.append(slot)

    def release_all(self, slots: Sequence[int]) -> None:
        """``release`` of each, in order."""
        if self._pinned.isdisjoint(slots):
            self._free += slots
        else:
            for slot in slots:
                self.release(slot)

    def is_pinned(self, slot: int) -> bool:
        return slot in self._pinned

    def pin(self, slots: Collection[int]) -> None:
        pinned = self._pinned
        fresh = set(slots)
        if len(fresh) == len(slots) and pinned.isdisjoint(fresh):
            pinned |= fresh
            return
        for slot in slots if len(fresh) < len(slots) else pinned & fresh:
            if slot in pinned:
                self._more_pins[slot] = self._more_pins.get(slot, 0) + 1
            pinned.add(slot)
        pinned |= fresh

    def unpin(self, slots: Collection[int]) -> None:
        """Undo one ``pin`` of each slot. Raises InvariantError for a slot that is not pinned."""
        more_pins, released = self._more_pins, self._released
        plain = set(slots)
        if more_pins or released:
            for slot in [slot for slot in slots if slot in more_pins or slot in released]:
                self._unpin(slot)
                plain.discard(slot)
        num_left = len(self._pinned) - len(plain)
        self._pinned -= plain
        if len(self._pinned) != num_left:
            raise InvariantError(f"one of slots {slots} is unpinned but no copy uses it")

    def _unpin(self, slot: int) -> None:
        more = self._more_pins.pop(slot, 0)
        if more > 1:
            self._more_pins[slot] = more - 1
        elif more == 0:
            if slot not in self._pinned:
                raise InvariantError(f"slot {slot} is unpinned but no copy uses it")
            self._pinned.remove(slot)
            if slot in self._released:
                self._released.remove(slot)
                self._free.append(slot)
