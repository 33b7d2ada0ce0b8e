"""How many blocks may still be written to NVME: what spares the disk. Counted in blocks."""

from __future__ import annotations

from typing import Protocol


class WriteAllowance(Protocol):
    """Asked before blocks are ordered down; a block that is refused is computed again."""

    def num_blocks(self, at_most: int) -> int:
        """How many of ``at_most`` may be written now. Cheap: asked each turn."""

    def take(self, num_blocks: int) -> bool:
        """Count them as written; False, and nothing counted, if they are too many."""

    def give_back(self, num_blocks: int) -> None:
        """They were taken and are not written after all."""


class NoWriteLimit:
    """As many as there is room for."""

    def num_blocks(self, at_most: int) -> int:
        return at_most

    def take(self, num_blocks: int) -> bool:
        return True

    def give_back(self, num_blocks: int) -> None:
        return
