"""A driver in miniature: random requests and orders on a real BlockManager and two fake stages.

It keeps the scheduler's side of the protocol (a micro-batch holds only requests whose blocks were
ordered by earlier messages, and is protected while its message is composed) and nothing else: who
runs, what is stored, loaded, moved, dropped or fails is drawn from the ``Random`` handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from kit.kv_stages import FakeStage, Message, Row
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.eviction import EvictionPolicy
from pipemax_worker.kvcache.prefix_index import hash_full_blocks

BLOCK_TOKENS = 2
MAX_TOKENS = 9  # a request that outgrows the tiers would only stall the run


@dataclass(eq=False)
class Sequence:
    tokens: list[int]
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)

    def block_values(self, num_tokens: int) -> list[tuple[int, ...]]:
        """KV at a position depends on all tokens up to it."""
        values = [hash(tuple(self.tokens[: end + 1])) for end in range(num_tokens)]
        starts = range(0, num_tokens, BLOCK_TOKENS)
        return [tuple(values[start : start + BLOCK_TOKENS]) for start in starts]


class KVDriver:
    def __init__(self, num_slots: dict[Tier, int], eviction: EvictionPolicy) -> None:
        self.stages = [FakeStage(num_slots, BLOCK_TOKENS) for _ in range(2)]
        self.manager = BlockManager(num_slots, len(self.stages), eviction)
        self.sequences: list[Sequence] = []
        self.block_values: dict[int, tuple[int, ...]] = {}

    # --- requests

    def admit(self, tokens: list[int]) -> None:
        hashes = hash_full_blocks(tokens, BLOCK_TOKENS)[: (len(tokens) - 1) // BLOCK_TOKENS]
        hits = self.manager.lookup_prefix(hashes)
        self.manager.touch(hits)
        self.sequences.append(Sequence(list(tokens), BLOCK_TOKENS * len(hits), hits))

    def finish(self, sequence: Sequence) -> None:
        self.sequences.remove(sequence)
        self.manager.free(sequence.block_ids)

    def invalidate(self, block_id: int) -> None:
        self.manager.invalidate([block_id])
        self.cut((block_id,))

    def cut(self, lost_block_ids: tuple[int, ...]) -> None:
        """Holders keep what comes before the first lost block."""
        for sequence in self.sequences:
            lost = [i for i, b in enumerate(sequence.block_ids) if b in lost_block_ids]
            if lost:
                self.manager.free(sequence.block_ids[lost[0] :])
                del sequence.block_ids[lost[0] :]
                sequence.num_computed = min(sequence.num_computed, BLOCK_TOKENS * lost[0])

    # --- messages

    def turn(self, random: Random) -> None:
        """One message, and what the stages and their reports do meanwhile."""
        message = self.compose(random)
        self.manager.close_message()
        for stage in self.stages:
            stage.messages.append(message)
        self.run_stages(random)

    def compose(self, random: Random) -> Message:
        message = Message()
        ready = [s for s in self.sequences if not self.manager.missing_on_device(s.block_ids)]
        batch = [sequence for sequence in ready if random.random() < 0.5]
        protected = {block_id for sequence in batch for block_id in sequence.block_ids}
        for sequence in batch:
            num_new = random.choice([1, 1, 1, 2, 3])
            if sequence.num_computed + num_new <= MAX_TOKENS:
                message.rows.extend(self.grow(sequence, num_new, protected))
        for sequence in batch:
            num_full = sequence.num_computed // BLOCK_TOKENS
            num_stored = num_full + (random.random() < 0.6)
            job = self.manager.order_store(sequence.block_ids[:num_stored])
            self.add(message.stores_after, job, random)
        rest = [s for s in self.sequences if protected.isdisjoint(s.block_ids)]
        if rest and random.random() < 0.4:
            self.drop(random.choice(rest))
        for sequence in random.sample(self.sequences, len(self.sequences)):
            if random.random() < 0.8:
                message.prefetch.extend(self.order_load(sequence, protected))
        self.order_background(message, random)
        return message

    def grow(self, sequence: Sequence, num_new: int, protected: set[int]) -> list[Row]:
        computed, end = sequence.num_computed, sequence.num_computed + num_new
        new = self.allocate(-(-end // BLOCK_TOKENS) - len(sequence.block_ids), protected)
        if new is None:
            return []
        protected.update(new)
        sequence.block_ids += new
        sequence.tokens += [0] * max(0, end - len(sequence.tokens))
        sequence.num_computed = end
        expected = sequence.block_values(end)
        hashes = hash_full_blocks(sequence.tokens[:end], BLOCK_TOKENS)
        for index in range(computed // BLOCK_TOKENS, len(expected)):
            block_id = sequence.block_ids[index]
            self.block_values[block_id] = expected[index]
            self.manager.mark_filled(block_id, len(expected[index]))
            if index < len(hashes):
                self.manager.commit_hash(block_id, hashes[index])
        return [Row(self.manager.device_slots(sequence.block_ids), expected, computed)]

    def allocate(self, num_blocks: int, protected: set[int]) -> list[int] | None:
        manager = self.manager
        is_possible = manager.num_available_device_slots(protected) >= num_blocks
        if manager.has_host_tier:
            is_possible &= manager.num_available_host_slots >= num_blocks
        before = manager.occupancy()
        new = manager.allocate(num_blocks, protected)
        assert (new is not None) == is_possible
        assert new is not None or manager.occupancy() == before
        assert not manager.missing_on_device([*protected, *(new or ())])
        return new

    def drop(self, sequence: Sequence) -> None:
        backed_up = list(filter(self.manager._table.has_backup, sequence.block_ids))
        self.manager.drop_device(backed_up)
        assert self.manager.missing_on_device(backed_up) == backed_up

    def order_load(self, sequence: Sequence, protected: set[int]) -> list[CopyJob]:
        missing = self.manager.missing_on_device(sequence.block_ids)
        if not missing or not all(map(self.manager.is_on_host, missing)):
            return []
        keep = protected | set(sequence.block_ids)
        before = self.manager.occupancy()
        is_possible = self.manager.num_available_device_slots(keep) >= len(missing)
        job = self.manager.order_load(sequence.block_ids, protected)
        assert (job is not None) == is_possible
        assert not self.manager.missing_on_device(list(protected))
        if job is None:
            assert self.manager.occupancy() == before
            return []
        assert not self.manager.missing_on_device(sequence.block_ids)
        return [job]

    def order_background(self, message: Message, random: Random) -> None:
        for sequence in self.sequences:
            chance = random.random()
            if chance < 0.25:
                stored = [b for b in sequence.block_ids if self.manager.is_on_host(b)]
                self.add(message.background, self.manager.order_demote(stored), random)
            elif chance < 0.6:
                job = self.manager.order_promote(sequence.block_ids)
                self.add(message.background, job, random)

    def add(self, jobs: list[CopyJob], job: CopyJob | None, random: Random) -> None:
        """Append the job; now and then one of its slots is going to fail on one stage. Stores do
        not fail: they count before they are reported."""
        if job is not None:
            jobs.append(job)
            if job.source is not Tier.DEVICE and random.random() < 0.04:
                position = random.randrange(job.num_slots)
                random.choice(self.stages).failing.add((job.job_id, position))

    # --- stages

    def run_stages(self, random: Random) -> None:
        """Stage 0 copies at the first moment it may, stage 1 at the last, or now and then."""
        eager, lazy = self.stages
        for _ in range(random.randint(0, len(eager.messages))):
            eager.run_message(copies_at_once=True)
        for _ in range(random.randint(0, len(lazy.messages))):
            lazy.run_message(copies_at_once=False)
            while random.random() < 0.6:
                lazy.run_copy(random.randrange(6))
        for number, stage in enumerate(self.stages):
            self.report(number, random.randint(0, len(stage.results)))

    def report(self, stage: int, num_results: int) -> None:
        results = self.stages[stage].results
        for copy in self.manager.update_from_report(stage, results[:num_results]):
            self.cut(copy.lost_block_ids)
        del results[:num_results]

    def drain(self) -> None:
        for number, stage in enumerate(self.stages):
            while stage.messages:
                stage.run_message(copies_at_once=number == 0)
            stage.run_all_copies()
            self.report(number, len(stage.results))

    # --- truth

    def check_every_copy(self) -> None:
        """After ``drain``: what the table calls valid is right on every stage."""
        table = self.manager._table
        for block in table.blocks.values():
            for tier in Tier:
                slot = table.tiers[tier].slots.get(block.block_id)
                if slot is not None and table.has_copy(block, tier):
                    for stage in self.stages:
                        stage.check(tier, slot, self.block_values[block.block_id])

    def check_end(self) -> None:
        """Drain, compare every copy, free everything: nothing may be left in use."""
        self.drain()
        assert self.manager.num_pending_copies == 0
        self.check_every_copy()
        for sequence in list(self.sequences):
            self.finish(sequence)
        self.manager.check_integrity()
        assert self.manager.is_idle
        assert all(tier.used == 0 for tier in self.manager.occupancy().values())
