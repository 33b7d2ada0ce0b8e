"""The same steps with KV that stays and with KV that leaves the device in between, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from kit.kv_tiers import copy_job
from kit.paged_model import PagedModel
from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.stage.kv.device import KV_DTYPES, DeviceKVCache
from pipemax_worker.stage.kv.host import HostKVCache
from pipemax_worker.stage.kv.mover import KVMover
from pipemax_worker.stage.kv.nvme import NVMeKVFile

D, H, N = Tier.DEVICE, Tier.HOST, Tier.NVME
DTYPE_NAMES = {dtype: name for name, dtype in KV_DTYPES.items()}


class StageTiers:
    """One stage's three tiers; the model computes on the first."""

    def __init__(
        self, folder: Path, geometry: KVGeometry, stage: int, device: torch.device
    ) -> None:
        self.device = DeviceKVCache(geometry, stage, device)
        self.host = HostKVCache(geometry, stage, pinned=device.type == "cuda")
        self.nvme = NVMeKVFile(
            folder / f"stage-{stage}.kv", geometry.num_nvme_slots, geometry.slot_bytes(stage)
        )
        self.mover = KVMover(self.device, self.host, self.nvme)
        self._num_jobs = 0

    def copy(self, source: Tier, target: Tier, slots: Mapping[int, int]) -> None:
        """``slots``: where from -> where to. Returns when it has landed."""
        self._num_jobs += 1
        job = copy_job(self._num_jobs, source, target, list(slots), list(slots.values()))
        self.mover.submit([job])
        self.mover.wait([job.job_id])
        assert all(not result.failed for result in self.mover.get_finished())

    def close(self) -> None:
        self.mover.close()
        self.host.close()
        self.nvme.close()


class MovedKV:
    """Takes the KV of ``model`` to other slots, by way of the host and for every other block of
    NVMe. What it leaves behind is overwritten, so that a late or wrong copy shows."""

    def __init__(self, model: PagedModel, folder: Path) -> None:
        self._model = model
        self._random = Random(11)
        first = model.kv[0]
        self._num_slots = first.shape[0] - 1
        geometry = KVGeometry(
            block_tokens=model.block_tokens,
            kv_dtype=DTYPE_NAMES[first.dtype],
            num_kv_heads=model.config.num_key_value_heads,
            head_dim=model.config.head_dim,
            layers_of_stage=tuple(kv.shape[1] for kv in model.kv),
            num_device_slots=self._num_slots,
            num_host_slots=self._num_slots,
            num_nvme_slots=self._num_slots,
        )
        self._stages = [
            StageTiers(folder, geometry, stage, model.device) for stage in range(len(model.kv))
        ]
        model.kv = [tiers.device.blocks for tiers in self._stages]

    def move(self) -> None:
        """Between two steps."""
        used = [slot for table in self._model._tables.values() for slot in table]
        host, nvme, after = (
            dict(zip(used, self._random.sample(range(self._num_slots), len(used)), strict=True))
            for _ in range(3)
        )
        slow = used[::2]
        for tiers in self._stages:
            tiers.copy(D, H, host)
            tiers.copy(H, N, {host[slot]: nvme[slot] for slot in slow})
            tiers.host.rows[[host[slot] for slot in slow]] = 0x7F
            tiers.device.rows.fill_(0x7F)
            tiers.copy(N, H, {nvme[slot]: host[slot] for slot in slow})
            tiers.copy(H, D, {host[slot]: after[slot] for slot in used})
        tables = self._model._tables
        self._model._tables = {n: [after[slot] for slot in table] for n, table in tables.items()}
        taken = set(after.values())
        self._model._free = [slot for slot in range(self._num_slots) if slot not in taken]

    def close(self) -> None:
        for tiers in self._stages:
            tiers.close()


def assert_replay_is_exact(
    stays: PagedModel, moves: PagedModel, folder: Path, prompts: Sequence[Sequence[int]], steps: int
) -> None:
    """Logits of every step and all KV at the end, both models fed the same tokens."""
    moved = MovedKV(moves, folder)
    try:
        chunks: dict[int, Sequence[int]] = dict(enumerate(prompts))
        for step in range(steps):
            expected, found = stays.forward(chunks).clone(), moves.forward(chunks).clone()
            assert torch.equal(expected, found), f"step {step}"
            chunks = {n: [3 + 7 * n + step] for n in chunks}
            moved.move()
        for request_id in stays._tables:
            assert_equal_kv(stays, moves, request_id)
    finally:
        moved.close()


def assert_equal_kv(one: PagedModel, other: PagedModel, request_id: int) -> None:
    """Of the tokens that there are: what lies behind them in a last block is nobody's."""
    length = one._lengths[request_id]
    for first, second in zip(one.kv, other.kv, strict=True):
        written = [
            kv.view(torch.uint8)[model._tables[request_id]]
            .movedim(3, 1)  # [blocks, block_tokens, layers, 2, heads, bytes]
            .flatten(0, 1)[:length]
            for kv, model in ((first, one), (second, other))
        ]
        assert torch.equal(*written), f"request {request_id}"
