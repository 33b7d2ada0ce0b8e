"""The free slots of one tier, and the slots that copies in flight still use."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pipemax_worker.errors import InvariantError


class SlotPool:
    """Hands out slot numbers ``0..num_slots - 1`` of one tier; every operation is O(1) a slot.

    A copy in flight *pins* the slots whose bytes it still reads or writes. A slot released while it
    is pinned is free only after its last ``unpin``: nobody can overwrite it under the copy.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._pins: dict[int, int] = {}
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
        return dict(self._pins)

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
        if slot in self._pins:
            self._released.add(slot)
        else:
            self._free.append(slot)

    def is_pinned(self, slot: int) -> bool:
        return slot in self._pins

    def pin(self, slots: Iterable[int]) -> None:
        pins = self._pins
        for slot in slots:
            pins[slot] = pins.get(slot, 0) + 1

    def unpin(self, slots: Iterable[int]) -> None:
        """Undo one ``pin`` of each slot. Raises InvariantError for a slot that is not pinned."""
        pins = self._pins
        for slot in slots:
            count = pins.pop(slot, 0)
            if count > 1:
                pins[slot] = count - 1
            elif count == 0:
                raise InvariantError(f"slot {slot} is unpinned but no copy uses it")
            elif slot in self._released:
                self._released.remove(slot)
                self._free.append(slot)
