"""Which copies go first when a tier is full. Decides only; ``BlockTable`` carries it out."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import islice
from typing import Protocol

_MIN_USES_BEFORE_COMPACTION = 64


class EvictionPolicy(Protocol):
    """Keeps the blocks whose copy in one tier may be dropped now, in the order to drop them.

    The table inserts a block when its copy becomes droppable and removes it when it no longer is.

    takes_referenced   whether blocks in use can be chosen on DEVICE; they are not inserted if not.
    """

    @property
    def takes_referenced(self) -> bool: ...

    def __len__(self) -> int: ...

    def __contains__(self, block_id: object) -> bool: ...

    def insert(self, block_id: int, is_referenced: bool) -> None:
        """The block's copy may be dropped from now on. Keeps its rank if it is known as such."""
        ...

    def remove(self, block_id: int) -> None:
        """The block's copy may not be dropped now, or is gone. Unknown blocks are ignored."""
        ...

    def touch(self, block_ids: Sequence[int]) -> None:
        """One request's message reads these blocks, head to tail."""
        ...

    def remove_all(self, block_ids: Sequence[int]) -> None:
        """``remove`` of each."""
        ...

    def evict(self, num_blocks: int, protected: Container[int]) -> list[int]:
        """Choose up to ``num_blocks`` blocks, none of them protected. The table removes them."""
        ...


class LRUEviction:
    """First in, first out; being removed while in use and inserted after makes that LRU."""

    takes_referenced = True

    def __init__(self) -> None:
        self._blocks: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._blocks

    def insert(self, block_id: int, is_referenced: bool) -> None:
        self._blocks.setdefault(block_id)

    def remove(self, block_id: int) -> None:
        self._blocks.pop(block_id, None)

    def remove_all(self, block_ids: Sequence[int]) -> None:
        if self._blocks:
            for block_id in block_ids:
                self._blocks.pop(block_id, None)

    def touch(self, block_ids: Sequence[int]) -> None:
        """Nothing to do: a block in use is not in the list."""

    def evict(self, num_blocks: int, protected: Container[int]) -> list[int]:
        return list(islice((b for b in self._blocks if b not in protected), num_blocks))


class CachedEviction(LRUEviction):
    """For who drops blocks in use from the device by itself, as the engine's rotation does: of the
    others, which nobody references, the least recently used goes first."""

    takes_referenced = False


class RotationEviction:
    """Cached blocks first, least recently used first; then referenced ones, *most* recent first.

    Micro-batches take turns, so what micro-batch t-1 has just read is what is needed latest; LRU
    would drop what the next one reads. Uses are kept as one group a request and message, never
    block by block: ``touch`` copies a list, and ``evict`` takes whole groups from the newest on,
    tail first, so that few requests lose blocks and shared heads go last. Each group entry is
    looked at once, which keeps ``evict`` at O(num_blocks) amortised. Blocks in no group (loaded and
    not yet read) come last, the newest first.
    """

    takes_referenced = True

    def __init__(self) -> None:
        self._cached: dict[int, None] = {}
        self._referenced: dict[int, None] = {}
        self._uses: dict[int, list[int]] = {}
        self._compact_at = _MIN_USES_BEFORE_COMPACTION

    def __len__(self) -> int:
        return len(self._cached) + len(self._referenced)

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._referenced or block_id in self._cached

    def insert(self, block_id: int, is_referenced: bool) -> None:
        into, other = self._cached, self._referenced
        if is_referenced:
            into, other = other, into
        other.pop(block_id, None)
        into.setdefault(block_id)

    def remove(self, block_id: int) -> None:
        self._cached.pop(block_id, None)
        self._referenced.pop(block_id, None)

    def remove_all(self, block_ids: Sequence[int]) -> None:
        for block_id in block_ids:
            self.remove(block_id)

    def touch(self, block_ids: Sequence[int]) -> None:
        # A request's group is known by its last block; decoding makes that the one before the last.
        for block_id in block_ids[-2:]:
            self._uses.pop(block_id, None)
        self._uses[block_ids[-1]] = list(block_ids)
        if len(self._uses) > self._compact_at:
            self._compact()

    def evict(self, num_blocks: int, protected: Container[int]) -> list[int]:
        oldest_first = (b for b in self._cached if b not in protected)
        chosen = dict.fromkeys(islice(oldest_first, num_blocks))
        if len(chosen) < num_blocks:
            self._take_from_groups(chosen, num_blocks, protected)
        if len(chosen) < num_blocks:
            self._take_newest(chosen, num_blocks, protected)
        return list(chosen)

    def _take_from_groups(
        self, chosen: dict[int, None], num_blocks: int, protected: Container[int]
    ) -> None:
        spent = []
        for last_block_id in reversed(self._uses):
            if last_block_id in protected:
                continue  # a request of the message being composed, or of the next
            group = self._uses[last_block_id]
            while group and len(chosen) < num_blocks:
                block_id = group.pop()
                if block_id in self._referenced and block_id not in protected:
                    chosen[block_id] = None
            if group:
                break
            spent.append(last_block_id)
        for last_block_id in spent:
            del self._uses[last_block_id]

    def _take_newest(
        self, chosen: dict[int, None], num_blocks: int, protected: Container[int]
    ) -> None:
        for block_id in reversed(self._referenced):
            if block_id not in protected:
                chosen[block_id] = None
                if len(chosen) == num_blocks:
                    return

    def _compact(self) -> None:
        """Forget groups of requests that are gone: none of their blocks can be evicted."""
        self._uses = {
            last_block_id: group
            for last_block_id, group in self._uses.items()
            if not self._referenced.keys().isdisjoint(group)
        }
        self._compact_at = max(_MIN_USES_BEFORE_COMPACTION, 2 * len(self._uses))


def any_of(first: Container[int], second: Container[int]) -> Container[int]:
    """Both collections as one, without copying the first, which may be large."""
    return _AnyOf(first, second)


class _AnyOf:
    def __init__(self, first: Container[int], second: Container[int]) -> None:
        self._first = first
        self._second = second

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._second or block_id in self._first
