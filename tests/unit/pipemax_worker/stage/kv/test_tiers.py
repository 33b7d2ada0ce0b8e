"""The memory tiers: shapes, alignment, and what a typed view shares with its slots."""

import pytest
import torch
from kit.kv_tiers import CPU, make_geometry
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.device import DeviceKVCache
from pipemax_worker.stage.kv.host import HostKVCache
from pipemax_worker.stage.kv.memory import allocate_rows, row_buffers


@pytest.mark.parametrize("stage", [0, 1])
def test_device_blocks_are_a_view_of_the_slots(stage: int) -> None:
    geometry = make_geometry()
    cache = DeviceKVCache(geometry, stage, CPU)
    layers = geometry.layers_of_stage[stage]
    assert cache.blocks.shape == (7, layers, 2, 8, 2, 16)  # and a scratch slot
    assert cache.rows.shape == (7, 4096)
    assert cache.num_slots == 6
    cache.blocks[3] = 1.0
    payload = geometry.payload_bytes(stage)
    assert torch.equal(cache.rows[3, :payload].view(torch.float32), torch.ones(payload // 4))
    assert not cache.rows[3, payload:].any()
    assert not cache.rows[2].any()
    assert not cache.rows[4].any()


def test_every_layer_of_a_slot_is_contiguous() -> None:
    """Block-first: a slot is one piece, its layers one after the other."""
    blocks = DeviceKVCache(make_geometry(), 0, CPU).blocks
    assert blocks[1].is_contiguous()
    assert blocks.stride(0) * blocks.element_size() == 4096


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "float16", "fp8_e4m3"])
def test_all_kv_dtypes_have_a_typed_view(kv_dtype: str) -> None:
    geometry = make_geometry()
    geometry = type(geometry)(
        **{name: getattr(geometry, name) for name in geometry.__struct_fields__}
        | {"kv_dtype": kv_dtype, "scale_bytes": 32}
    )
    cache = DeviceKVCache(geometry, 0, CPU)
    assert cache.blocks.shape == (7, 2, 2, 8, 2, 16)
    assert cache.blocks.element_size() * cache.blocks[0].numel() == geometry.payload_bytes(0) - 32


def test_memory_is_page_aligned_and_zero() -> None:
    rows = allocate_rows(3, 4096, "test tier")
    assert rows.data_ptr() % 4096 == 0
    assert not rows.any()


def test_row_buffers_share_their_memory() -> None:
    rows = allocate_rows(3, 4096, "test tier")
    buffers = row_buffers(rows, 1, 2)
    buffers[1][5] = 7
    assert rows[2, 5] == 7
    assert [buffer.nbytes for buffer in buffers] == [4096, 4096]


def test_memory_that_cannot_be_had_is_a_typed_error() -> None:
    with pytest.raises(KVTierError, match=r"host tier: \d+ bytes of memory for .* slots"):
        allocate_rows(1 << 50, 4096, "host tier")


def test_a_tier_without_slots_is_empty() -> None:
    host = HostKVCache(make_geometry(host=0), 0, pinned=False)
    assert host.num_slots == 0
    host.close()


def test_pinned_regions_end_at_slots() -> None:
    host = HostKVCache(make_geometry(), 0, pinned=False)
    assert host.chunk_slots * 4096 == 4 << 30
