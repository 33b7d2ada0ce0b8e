"""Waiting inside an event loop: for a condition, however slowly the machine gets there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 60.0
NUM_TURNS = 50


async def until(found: Callable[[], Any]) -> None:
    """Raises TimeoutError if that is not true in a minute."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not found():
            await asyncio.sleep(0.005)


async def settle() -> None:
    """Whatever is ready goes on, step by step: by turns of the loop, not by a clock that runs while
    the process does not. What a timer of some milliseconds starts has its turn too."""
    for _ in range(NUM_TURNS):
        await asyncio.sleep(0.001)
