"""Blocks that requests in lock-step have by count alone: most end before anyone looks for them."""

from __future__ import annotations


class OwedBlocks:
    """Of one pipeline; empty but in simulations.

    total        blocks that count as taken on the device and were never allocated.
    by_request   of requests that are not in lock-step any more.
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_request: dict[int, int] = {}

    def settle(self, request_id: int) -> int:
        """What a request is owed, from now on no more; either it is allocated then or it has no use
        for it."""
        num_blocks = self.by_request.pop(request_id, 0)
        self.total -= num_blocks
        return num_blocks
