"""Waiting for whichever comes first: somebody's word, or the time."""

from __future__ import annotations

import asyncio
import contextlib


async def wait_for_word(word: asyncio.Event, seconds: float) -> None:
    """Until ``word`` is set, at most ``seconds``. A cancellation is always heard.

    Not ``asyncio.wait_for``: before Python 3.12 it swallows a cancellation that comes in the same
    turn of the loop as its result, and then the loop that waits never ends.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await word.wait()
