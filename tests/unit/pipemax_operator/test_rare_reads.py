"""Dear questions: one at a time, one answer for all who ask the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pipemax_operator import rare_reads
from pipemax_operator.rare_reads import RareReads

Document = dict[str, Any]


class Scene:
    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()
        self.reads = RareReads(3.0, lambda: self.now)

    async def ask(self) -> Sequence[Document]:
        self.asked += 1
        await self.go.wait()
        return [{"number": self.asked}]


def test_many_who_ask_at_once_are_one_question() -> None:
    async def run() -> None:
        scene = Scene()
        found = await asyncio.gather(*(scene.reads.shared("", scene.ask) for _ in range(100)))
        assert scene.asked == 1
        assert found == [[{"number": 1}]] * 100
        scene.now = 3.0
        assert await scene.reads.shared("", scene.ask) == [{"number": 2}]

    asyncio.run(run())


def test_who_need_not_wait_gets_the_last_answer_meanwhile() -> None:
    async def run() -> None:
        scene = Scene()
        assert await scene.reads.if_idle("a", scene.ask) == [{"number": 1}]
        scene.now = 5.0
        scene.go.clear()
        slow = asyncio.create_task(scene.reads.if_idle("b", scene.ask))
        await asyncio.sleep(0)
        assert await scene.reads.if_idle("a", scene.ask) == [{"number": 1}]
        assert await scene.reads.if_idle("c", scene.ask) == ()
        scene.go.set()
        assert await slow == [{"number": 2}]
        assert await scene.reads.if_idle("c", scene.ask) == [{"number": 3}]

    asyncio.run(run())


def test_a_refusal_is_no_answer_and_old_answers_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> Sequence[Document]:
        raise RuntimeError("away")

    async def run() -> None:
        scene = Scene()
        with pytest.raises(RuntimeError):
            await scene.reads.shared("a", refuse)
        for question in ("a", "b", "c"):
            await scene.reads.shared(question, scene.ask)
        assert await scene.reads.shared("b", scene.ask) == [{"number": 2}]
        assert await scene.reads.shared("a", scene.ask) == [{"number": 4}]

    monkeypatch.setattr(rare_reads, "MAX_KEPT", 2)
    asyncio.run(run())
