"""Which block holds which prefix. The hash is only an index for sharing, never a block's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from pipemax_worker.contract.transfers import pack_int32

BlockHash = bytes | int

_HASH_BYTES = 16


def hash_block(parent_hash: bytes | None, token_ids: Sequence[int]) -> bytes:
    """Hash of a full block and, through ``parent_hash``, of all that comes before it.

    KV depends on every earlier token, so equal hashes mean equal KV. 128 bits: two different
    prefixes of one job never meet in practice.
    """
    return blake2b((parent_hash or b"") + pack_int32(token_ids), digest_size=_HASH_BYTES).digest()


def hash_full_blocks(token_ids: Sequence[int], block_tokens: int) -> list[bytes]:
    """The chained hashes of all full blocks of ``token_ids``, head first."""
    hashes: list[bytes] = []
    for end in range(block_tokens, len(token_ids) + 1, block_tokens):
        parent_hash = hashes[-1] if hashes else None
        hashes.append(hash_block(parent_hash, token_ids[end - block_tokens : end]))
    return hashes


class PrefixIndex:
    """Hash -> block id, one block a hash: who comes first stays."""

    def __init__(self) -> None:
        self._block_ids: dict[BlockHash, int] = {}

    def __len__(self) -> int:
        return len(self._block_ids)

    def __iter__(self) -> Iterator[tuple[BlockHash, int]]:
        return iter(self._block_ids.items())

    def insert(self, block_hash: BlockHash, block_id: int) -> bool:
        """Enter a block; False, and nothing changed, if another block has this hash."""
        return self._block_ids.setdefault(block_hash, block_id) == block_id

    def remove(self, block_hash: BlockHash) -> None:
        del self._block_ids[block_hash]

    def lookup(self, block_hash: BlockHash) -> int | None:
        return self._block_ids.get(block_hash)

    def longest_prefix(self, hashes: Sequence[BlockHash]) -> list[int]:
        """Blocks of the longest run of known hashes from the head on."""
        block_ids: list[int] = []
        for block_hash in hashes:
            block_id = self._block_ids.get(block_hash)
            if block_id is None:
                break
            block_ids.append(block_id)
        return block_ids
