from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.kvcache.prefix_index import PrefixIndex, hash_block, hash_full_blocks


def test_a_hash_depends_on_tokens_and_all_before_them() -> None:
    first, other = hash_block(None, [1, 2]), hash_block(None, [1, 3])
    assert first == hash_block(None, (1, 2))
    assert len({first, other, hash_block(first, [1, 2]), hash_block(other, [1, 2])}) == 4
    assert len(first) == 16


def test_hashes_are_stable_between_runs() -> None:
    assert hash_block(None, [1, 2]).hex() == "2cc5e4d47c5f3c5fbe635a5a5b7bb392"


@given(st.lists(st.integers(0, 2**31 - 1), max_size=20), st.integers(1, 5))
def test_full_blocks_are_hashed_as_a_chain(tokens: list[int], block_tokens: int) -> None:
    hashes = hash_full_blocks(tokens, block_tokens)
    assert len(hashes) == len(tokens) // block_tokens
    parent_hash = None
    for index, block_hash in enumerate(hashes):
        first = index * block_tokens
        assert block_hash == hash_block(parent_hash, tokens[first : first + block_tokens])
        parent_hash = block_hash


def test_the_first_block_with_a_hash_stays() -> None:
    index = PrefixIndex()
    assert index.insert(b"a", 1)
    assert index.insert(b"a", 1)
    assert not index.insert(b"a", 2)
    assert index.lookup(b"a") == 1
    index.remove(b"a")
    assert index.lookup(b"a") is None
    assert len(index) == 0


def test_the_longest_prefix_ends_at_the_first_gap() -> None:
    index = PrefixIndex()
    for block_id, block_hash in enumerate([b"a", b"b", b"d"]):
        index.insert(block_hash, block_id)
    assert index.longest_prefix([b"a", b"b", b"c", b"d"]) == [0, 1]
    assert index.longest_prefix([b"x", b"a"]) == []
    assert index.longest_prefix([]) == []
