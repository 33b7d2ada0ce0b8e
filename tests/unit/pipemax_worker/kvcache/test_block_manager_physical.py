"""Random orders against stages that hold real contents: no forward ever reads a wrong block.

Two stages run the same messages. One does every copy at the first moment it may, the other at the
last, or when Hypothesis says so; reports arrive in any order between the stages. Forwards check
what they read; at the end every copy that the table calls valid is compared on both stages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kit.kv_stages import FakeStage, Message, Row

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.eviction import LRUEviction, RotationEviction
from pipemax_worker.kvcache.prefix_index import hash_full_blocks

BLOCK_TOKENS = 2
NUM_STAGES = 2


@dataclass(eq=False)
class Sequence:
    tokens: list[int]
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)

    def values(self, num_tokens: int) -> list[int]:
        """KV at a position depends on all tokens up to it."""
        return [hash(tuple(self.tokens[: end + 1])) for end in range(num_tokens)]

    def block_values(self, num_tokens: int) -> tuple[tuple[int, ...], ...]:
        values = self.values(num_tokens)
        starts = range(0, num_tokens, BLOCK_TOKENS)
        return tuple(tuple(values[start : start + BLOCK_TOKENS]) for start in starts)


class PhysicalMachine(RuleBasedStateMachine):
    @initialize(
        device=st.integers(3, 6),
        host=st.sampled_from([0, 3, 4, 6, 8]),
        nvme=st.sampled_from([0, 2, 4]),
        is_lru=st.booleans(),
    )
    def start(self, device: int, host: int, nvme: int, is_lru: bool) -> None:
        num_slots = {Tier.DEVICE: device, Tier.HOST: host, Tier.NVME: nvme if host else 0}
        policy = LRUEviction() if is_lru else RotationEviction()
        self.manager = BlockManager(num_slots, NUM_STAGES, policy)
        self.stages = [FakeStage(num_slots, BLOCK_TOKENS) for _ in range(NUM_STAGES)]
        self.sequences: list[Sequence] = []
        self.block_values: dict[int, tuple[int, ...]] = {}

    # --- requests

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=7))
    def admit(self, tokens: list[int]) -> None:
        hashes = hash_full_blocks(tokens, BLOCK_TOKENS)[: (len(tokens) - 1) // BLOCK_TOKENS]
        hits = self.manager.lookup_prefix(hashes)
        self.manager.touch(hits)
        self.sequences.append(Sequence(tokens, BLOCK_TOKENS * len(hits), hits))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        self.sequences.remove(sequence)
        self.manager.free(sequence.block_ids)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def invalidate(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        if sequence.block_ids:
            block_id = data.draw(st.sampled_from(sequence.block_ids))
            self.manager.invalidate([block_id])
            self.cut([block_id])

    def cut(self, lost_block_ids: tuple[int, ...] | list[int]) -> None:
        """What the scheduler does: holders keep what comes before the first lost block."""
        for sequence in self.sequences:
            lost = [i for i, b in enumerate(sequence.block_ids) if b in lost_block_ids]
            if lost:
                self.manager.free(sequence.block_ids[lost[0] :])
                del sequence.block_ids[lost[0] :]
                computed = min(sequence.num_computed, BLOCK_TOKENS * lost[0])
                sequence.num_computed = computed

    # --- messages

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def compose(self, data: st.DataObject) -> None:
        message = Message()
        ready = [s for s in self.sequences if not self.manager.missing_on_device(s.block_ids)]
        batch = data.draw(st.lists(st.sampled_from(ready), unique=True)) if ready else []
        protected = {block_id for sequence in batch for block_id in sequence.block_ids}
        for sequence in batch:
            row = self.grow(sequence, data.draw(st.integers(1, 3)), protected)
            if row is not None:
                message.rows.append(row)
        self.order_stores(message, batch, data)
        rest = [s for s in self.sequences if protected.isdisjoint(s.block_ids)]
        if rest and data.draw(st.booleans()):
            self.drop(data.draw(st.sampled_from(rest)))
        for sequence in data.draw(st.permutations(self.sequences)):
            if data.draw(st.booleans()):
                self.order_load(message, sequence, protected)
        self.order_background(message, data)
        for stage in self.stages:
            stage.messages.append(message)

    def grow(self, sequence: Sequence, num_new: int, protected: set[int]) -> Row | None:
        computed, end = sequence.num_computed, sequence.num_computed + num_new
        num_blocks = -(-end // BLOCK_TOKENS) - len(sequence.block_ids)
        new = self.allocate(num_blocks, protected)
        if new is None:
            return None
        protected.update(new)
        sequence.block_ids += new
        sequence.tokens += [0] * max(0, end - len(sequence.tokens))
        sequence.num_computed = end
        expected = sequence.block_values(end)
        for block_id, values in list(zip(sequence.block_ids, expected, strict=True))[
            computed // BLOCK_TOKENS :
        ]:
            self.manager.mark_filled(block_id, len(values))
            self.block_values[block_id] = values
        hashes = hash_full_blocks(sequence.tokens[:end], BLOCK_TOKENS)
        for block_id, block_hash in list(zip(sequence.block_ids, hashes, strict=False))[
            computed // BLOCK_TOKENS :
        ]:
            self.manager.commit_hash(block_id, block_hash)
        return Row(self.manager.device_slots(sequence.block_ids), expected, computed)

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

    def order_stores(self, message: Message, batch: list[Sequence], data: st.DataObject) -> None:
        for sequence in batch:
            num_full = sequence.num_computed // BLOCK_TOKENS
            is_tail_too = data.draw(st.booleans())
            self.add(
                message.stores_after,
                self.manager.order_store(sequence.block_ids[: None if is_tail_too else num_full]),
                data,
            )

    def drop(self, sequence: Sequence) -> None:
        backed_up = [
            b for b in sequence.block_ids if self.manager.is_on_host(b) or self.is_on_nvme(b)
        ]
        self.manager.drop_device(backed_up)
        assert self.manager.missing_on_device(backed_up) == backed_up

    def is_on_nvme(self, block_id: int) -> bool:
        return self.manager._table.blocks[block_id].has_copy(Tier.NVME)

    def order_load(self, message: Message, sequence: Sequence, protected: set[int]) -> None:
        missing = self.manager.missing_on_device(sequence.block_ids)
        if missing and all(map(self.manager.is_on_host, missing)):
            before = self.manager.occupancy()
            is_possible = self.manager.num_available_device_slots(protected) >= len(missing)
            job = self.manager.order_load(missing, protected)
            assert (job is not None) == is_possible
            if job is None:
                assert self.manager.occupancy() == before
            else:
                assert not self.manager.missing_on_device(missing)
                message.prefetch.append(job)
            assert not self.manager.missing_on_device(list(protected))

    def order_background(self, message: Message, data: st.DataObject) -> None:
        for sequence in self.sequences:
            action = data.draw(st.sampled_from(["none", "none", "demote", "promote"]))
            if action == "demote":
                stored = [b for b in sequence.block_ids if self.manager.is_on_host(b)]
                self.add(message.background, self.manager.order_demote(stored), data)
            elif action == "promote":
                self.add(message.background, self.manager.order_promote(sequence.block_ids), data)

    def add(self, jobs: list[CopyJob], job: CopyJob | None, data: st.DataObject) -> None:
        if job is not None:
            jobs.append(job)
            if data.draw(st.integers(0, 9)) == 0:
                position = data.draw(st.integers(0, job.num_slots - 1))
                data.draw(st.sampled_from(self.stages)).failing.add((job.job_id, position))

    # --- stages

    @rule(number=st.integers(1, 3))
    def run_eager(self, number: int) -> None:
        for _ in range(min(number, len(self.stages[0].messages))):
            self.stages[0].run_message(copies_at_once=True)

    @rule(number=st.integers(1, 3))
    def run_lazy(self, number: int) -> None:
        for _ in range(min(number, len(self.stages[1].messages))):
            self.stages[1].run_message(copies_at_once=False)

    @rule(kinds=st.lists(st.integers(0, 5), max_size=4))
    def run_copies(self, kinds: list[int]) -> None:
        for kind in kinds:
            self.stages[1].run_copy(kind)

    @rule(stage=st.integers(0, NUM_STAGES - 1), number=st.integers(1, 9))
    def report(self, stage: int, number: int) -> None:
        results = self.stages[stage].results
        for copy in self.manager.update_from_report(stage, results[:number]):
            self.cut(copy.lost_block_ids)
        del results[:number]

    # --- truth

    @invariant()
    def is_consistent(self) -> None:
        if hasattr(self, "manager"):
            self.manager.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        for number, stage in enumerate(self.stages):
            while stage.messages:
                stage.run_message(copies_at_once=number == 0)
            stage.run_all_copies()
            self.report(number, len(stage.results))
        assert self.manager.num_pending_copies == 0
        self.check_every_copy()
        for sequence in self.sequences:
            self.manager.free(sequence.block_ids)
        self.manager.check_integrity()
        assert self.manager.is_idle
        assert all(tier.used == 0 for tier in self.manager.occupancy().values())

    def check_every_copy(self) -> None:
        for block in self.manager._table.blocks.values():
            for tier in Tier:
                slot = block.slots[tier]
                if slot is not None and block.has_copy(tier):
                    for stage in self.stages:
                        stage.check(tier, slot, self.block_values[block.block_id])


TestPhysical = PhysicalMachine.TestCase
TestPhysical.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
