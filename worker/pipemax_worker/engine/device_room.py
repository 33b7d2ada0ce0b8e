"""Takes device slots from requests, which come back by loads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pipemax_worker.engine.micro_batches import MicroBatches
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.residency import Residency
from pipemax_worker.kvcache.block_manager import BlockManager


class DeviceRoom:
    """Of one pipeline. Whose blocks go is ``Rotation``'s to say; which of them is said here."""

    def __init__(
        self, manager: BlockManager, residency: Residency, micro_batches: MicroBatches
    ) -> None:
        self._manager = manager
        self._residency = residency
        self._micro_batches = micro_batches

    def make(
        self, num_slots: int, victims: Iterable[RequestState], *, keep_cached: bool = False
    ) -> bool:
        """Drop blocks of ``victims``, in order, until ``num_slots`` can be had.

        Counts on cached blocks, which the manager evicts by itself, unless ``keep_cached``.
        """
        num_short = num_slots - self._residency.num_free(keep_cached)
        remaining = iter(victims)
        while num_short > 0:
            chosen = self._choose_blocks(remaining, num_short)
            if not chosen:
                return False
            self._manager.drop_device(chosen)
            # A slot that a copy still uses is not free at once: what is short is counted again.
            num_short = num_slots - self._residency.num_free(keep_cached)
        return True

    def _choose_blocks(self, victims: Iterator[RequestState], num_blocks: int) -> list[int]:
        """Up to ``num_blocks`` blocks of the next victims, which lose them."""
        chosen: list[int] = []
        for victim in victims:
            block_ids = self._droppable_blocks(victim, num_blocks - len(chosen))
            micro_batch = self._micro_batches.of(victim)
            if block_ids:
                self._take(victim, block_ids)
                if micro_batch is not None:
                    micro_batch.refresh(victim)
                chosen += block_ids
                if len(chosen) == num_blocks:
                    break
            if micro_batch is not None:
                micro_batch.partly.pop(victim.request_id, None)  # nothing more to take
        return chosen

    def _take(self, victim: RequestState, block_ids: Sequence[int]) -> None:
        """These blocks of ``victim``, in order, leave the device."""
        victim.packed_slots = None
        on_device = victim.on_device
        if len(block_ids) == len(on_device):
            victim.on_device = {}
        elif self._residency.shared:
            for block_id in block_ids:
                del on_device[block_id]
        else:  # they are the first ones
            victim.on_device = dict.fromkeys(islice(on_device, len(block_ids), None))

    def _droppable_blocks(self, victim: RequestState, num_blocks: int) -> list[int]:
        """Head first: blocks are stored in this order, so what follows the first that has no HOST
        copy yet has none either. Blocks that others share stay."""
        chosen = list(victim.on_device)
        if self._residency.shared and not self._residency.shared.keys().isdisjoint(chosen):
            chosen = [block_id for block_id in chosen if block_id not in self._residency.shared]
        if len(chosen) > num_blocks:
            del chosen[num_blocks:]
        num_stored = self._manager.count_on_host(chosen)
        return chosen if num_stored == len(chosen) else chosen[:num_stored]
