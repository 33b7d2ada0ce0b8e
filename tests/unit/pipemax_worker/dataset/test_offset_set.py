"""OffsetSet is a set, in a tenth of the memory."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.dataset.offset_set import OffsetSet


@given(st.lists(st.integers(0, 50)))
def test_it_agrees_with_a_set(offsets: list[int]) -> None:
    compact, plain = OffsetSet(), set[int]()
    for number, offset in enumerate(offsets):
        assert compact.add(offset) == (offset not in plain)
        plain.add(offset)
        assert len(compact) == len(plain)
        if number % 3 == 0:
            assert list(compact) == sorted(plain)
    assert [offset for offset in range(51) if offset in compact] == sorted(plain)


def test_it_stays_right_and_small_over_many_merges() -> None:
    offsets = random.Random(1).sample(range(10**12), 200_000)
    tracemalloc.start()
    compact = OffsetSet()
    for offset in offsets:
        compact.add(offset)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(compact) == 200_000
    assert all(offset in compact for offset in offsets[:1000])
    assert list(compact) == sorted(offsets)
    assert held_bytes < 200_000 * 40
