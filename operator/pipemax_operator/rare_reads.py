"""Answers that are dear to the API server, asked for once and shared for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Document = dict[str, Any]

MAX_KEPT = 256


class RareReads:
    """One question at a time; who asks the same within ``fresh_seconds`` gets the same answer.

    A list of events by what they are about is a scan of all events: a thousand jobs that ask for
    themselves are a million reads.
    """

    def __init__(self, fresh_seconds: float, monotonic: Callable[[], float]) -> None:
        self._fresh_seconds = fresh_seconds
        self._monotonic = monotonic
        self._answers: dict[str, tuple[float, Sequence[Document]]] = {}
        self._lock = asyncio.Lock()

    async def shared(
        self, question: str, ask: Callable[[], Awaitable[Sequence[Document]]]
    ) -> Sequence[Document]:
        """The answer, waited for."""
        async with self._lock:
            return await self._ask(question, ask)

    async def if_idle(
        self, question: str, ask: Callable[[], Awaitable[Sequence[Document]]]
    ) -> Sequence[Document]:
        """The answer, or while another question is being answered the last one, or nothing."""
        if self._lock.locked():
            _, last = self._answers.get(question, (0.0, ()))
            return last
        return await self.shared(question, ask)

    async def _ask(
        self, question: str, ask: Callable[[], Awaitable[Sequence[Document]]]
    ) -> Sequence[Document]:
        now = self._monotonic()
        if question in self._answers and now - self._answers[question][0] < self._fresh_seconds:
            return self._answers[question][1]
        answer = await ask()
        self._answers.pop(question, None)
        self._answers[question] = (now, answer)
        if len(self._answers) > MAX_KEPT:
            del self._answers[next(iter(self._answers))]
        return answer
