"""The memory tiers: shapes, alignment, and what a typed view shares with its slots."""

import threading

import pytest
import torch
from kit.kv_tiers import CPU, make_geometry
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv import host as host_module
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
    assert host.chunk_slots * 4096 == 1 << 30


STAGE_DEVICE = 3
CURRENT = threading.local()


class FakeRuntime:
    """Registers what it is given; ``fails_at``: the number of the call that does not."""

    def __init__(self, fails_at: int = -1) -> None:
        self.registered: dict[int, int] = {}
        self._fails_at = fails_at

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        assert getattr(CURRENT, "device", 0) == STAGE_DEVICE, "a context on a neighbour's GPU"
        if len(self.registered) == self._fails_at:
            return 2
        self.registered[address] = num_bytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.registered[address]
        return 0


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "PIN_CHUNK_BYTES", 2 * 4096)


@pytest.fixture
def a_later_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """This thread computes on GPU 3; every other one begins on GPU 0, as CUDA has it."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: STAGE_DEVICE)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(CURRENT, "device", device))


@pytest.mark.usefixtures("small_chunks", "a_later_stage")
class TestPinning:
    def test_every_slot_is_in_one_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime = FakeRuntime()
        monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
        host = HostKVCache(make_geometry(host=7), 0, pinned=True)
        first = host.rows.data_ptr()
        sizes = {first + 2 * 4096 * chunk: 2 * 4096 for chunk in range(3)}
        assert runtime.registered == {**sizes, first + 6 * 4096: 4096}
        assert not host.rows.any()
        assert host.chunk_slots == 2
        host.close()
        assert not runtime.registered

    def test_a_chunk_that_cannot_be_pinned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "cudart", lambda: FakeRuntime(fails_at=0))
        with pytest.raises(KVTierError, match="pinning 8192 bytes failed with CUDA error 2"):
            HostKVCache(make_geometry(host=7), 0, pinned=True)

    def test_progress_is_shown(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(torch.cuda, "cudart", FakeRuntime)
        monkeypatch.setattr(host_module, "PROGRESS_SECONDS", -1.0)
        HostKVCache(make_geometry(host=7), 0, pinned=True)
        assert "host tier: 0 of 0 GiB pinned after 0 s" in caplog.text
