"""Tiers, and the shape of a KV slot in each of them.

A *block* is logical: ``block_tokens`` tokens of KV under one id for its whole life. A *slot* is its
place in one tier, the same number on every stage; a stage's slot holds the bytes of that stage's
layers. Layout of one slot, block-first, on every tier alike:

    [num_layers_of_stage, 2 (key, value), block_tokens, num_kv_heads, head_dim] of kv_dtype

followed, for quantised KV, by ``scale_bytes``, and zero padding up to ``SLOT_ALIGNMENT_BYTES``.
"""

from __future__ import annotations

import enum

import msgspec

from pipemax_worker.contract.model_cut import ModelCut

SLOT_ALIGNMENT_BYTES = 4096

KV_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8_e4m3": 1}


class Tier(enum.IntEnum):
    """Where a copy of a block's KV can be."""

    DEVICE = 0
    HOST = 1
    NVME = 2


class KVGeometry(msgspec.Struct, frozen=True):
    """The sizes that driver and stages must agree on. Fixed for the life of a pipeline.

    layers_of_stage, mlp_left_by_stage   see ``ModelCut``; KV is the attention's.
    """

    block_tokens: int
    kv_dtype: str
    num_kv_heads: int
    head_dim: int
    layers_of_stage: tuple[int, ...]
    num_device_slots: int
    num_host_slots: int
    num_nvme_slots: int
    scale_bytes: int = 0
    mlp_left_by_stage: tuple[bool, ...] = ()

    @property
    def cut(self) -> ModelCut:
        return ModelCut(self.layers_of_stage, self.mlp_left_by_stage)

    @property
    def num_stages(self) -> int:
        return len(self.layers_of_stage)

    def num_slots(self, tier: Tier) -> int:
        return (self.num_device_slots, self.num_host_slots, self.num_nvme_slots)[tier]

    def payload_bytes(self, stage: int) -> int:
        """Bytes of one block's KV on ``stage``, without padding."""
        per_token = 2 * self.num_kv_heads * self.head_dim * KV_DTYPE_BYTES[self.kv_dtype]
        return self.layers_of_stage[stage] * self.block_tokens * per_token + self.scale_bytes

    def slot_bytes(self, stage: int) -> int:
        """Bytes of one slot on ``stage``: the payload rounded up to ``SLOT_ALIGNMENT_BYTES``."""
        payload = self.payload_bytes(stage)
        return -(-payload // SLOT_ALIGNMENT_BYTES) * SLOT_ALIGNMENT_BYTES

    def block_bytes(self) -> int:
        """Bytes of one block's slots, all stages together."""
        return sum(self.slot_bytes(stage) for stage in range(self.num_stages))


def num_blocks_for(num_tokens: int, block_tokens: int) -> int:
    """How many blocks hold ``num_tokens`` tokens."""
    return -(-num_tokens // block_tokens)
