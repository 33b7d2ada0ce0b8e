"""A pipeline in memory that knows what every KV slot holds.

Each stage has slot arrays for its tiers. The KV of position p is modelled as a hash of the tokens
0..p, so a forward can check, for every position it reads, that the slot holds exactly what was
computed for this prefix. Stages run the messages in order but at random speeds against each other;
copies land at a random moment between their order and the point where a stage must wait for them;
reports arrive late. An error in the driver's bookkeeping shows as a wrong read, an AssertionError.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from kit.prefix_model import PrefixText, next_token
from kit.simulated_stage import SimulatedStage
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import (
    ExecutorEvent,
    SampledToken,
    ScheduledRequest,
    StageDied,
    StageInput,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.request import TokenLogprobs
from pipemax_worker.contract.transfers import CopyResult, unpack_int32

SLOT_BYTES = 4096


class SimulatedExecutor:
    """An ``Executor`` over simulated stages.

    num_stages            of the pipeline.
    block_tokens          tokens of one slot.
    link_bytes_per_second that reports tell of every copy.
    promote_failures      probability that a stage finds a bad checksum in a promoted slot.
    eager                 run everything that can run at each ``collect``: no random delays.
    """

    def __init__(
        self,
        num_stages: int,
        block_tokens: int,
        *,
        seed: int = 0,
        vocab_size: int = 50,
        stop_probability: float = 0.0,
        promote_failures: float = 0.0,
        max_batched_tokens: int | None = None,
        link_bytes_per_second: float = 1e9,
        eager: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.stages = [SimulatedStage(index) for index in range(num_stages)]
        self.block_tokens = block_tokens
        self.vocab_size = vocab_size
        self.stop_probability = stop_probability
        self.promote_failures = promote_failures
        self.max_batched_tokens = max_batched_tokens
        self.link_bytes_per_second = link_bytes_per_second
        self.eager = eager
        self.texts: dict[int, PrefixText] = {}
        self.submitted: list[StageInput] = []
        self.num_bad_blocks = 0
        self.is_drained = False

    # --- the Executor protocol -----------------------------------------------------------------

    def submit(self, stage_input: StageInput) -> None:
        assert not self.is_drained
        assert stage_input.sequence == len(self.submitted), "sequence numbers have a gap"
        self._check_message(stage_input)
        for new in stage_input.new_requests:
            assert new.request_id not in self.texts, "a request is new only once"
            tokens = unpack_int32(new.prompt_token_ids) + unpack_int32(new.output_token_ids)
            self.texts[new.request_id] = PrefixText(tokens, new.sampling.logprobs)
        self.submitted.append(stage_input)
        for stage in self.stages:
            stage.messages.append(stage_input)

    def collect(self, timeout_seconds: float) -> Sequence[ExecutorEvent]:
        num_actions = None if self.eager else self.random.randint(0, 6 * len(self.stages))
        while num_actions is None or num_actions > 0:
            if not self._advance():
                break
            if num_actions is not None:
                num_actions -= 1
        while not any(stage.outbox for stage in self.stages):
            if not self._advance():
                break
        return self._deliver()

    def drain(self) -> None:
        self.is_drained = True

    def kill(self, stage: int, reason: str = "StageDied", message: str = "") -> None:
        """Let ``stage`` die: its event is the next to be delivered."""
        last = self.stages[stage].last_forwarded
        self.stages[stage].outbox.append(StageDied(stage, -9, last, reason, message))

    # --- checks at the door --------------------------------------------------------------------

    def _check_message(self, message: StageInput) -> None:
        slots: set[int] = set()
        num_tokens = 0
        ids = [row.request_id for row in message.scheduled]
        assert len(ids) == len(set(ids)), "a request appears twice in one message"
        for row in message.scheduled:
            row_slots = unpack_int32(row.device_slots)
            end = row.num_computed_tokens + row.num_new_tokens
            assert len(row_slots) == -(-end // self.block_tokens), "slots do not match positions"
            assert row.num_new_tokens > 0
            written = row_slots[row.num_computed_tokens // self.block_tokens :]
            assert not slots & set(written), "a slot that another row uses is written"
            slots.update(row_slots)
            num_tokens += row.num_new_tokens
        for job in message.prefetch:
            assert (job.source, job.target) == (Tier.HOST, Tier.DEVICE)
            overlap = slots & set(unpack_int32(job.target_slots))
            assert not overlap, f"prefetch overwrites slots {overlap} of its own micro-batch"
        for job in message.stores_after:
            assert (job.source, job.target) == (Tier.DEVICE, Tier.HOST)
        for job in message.background:
            assert Tier.DEVICE not in (job.source, job.target)
        if self.max_batched_tokens is not None:
            assert num_tokens <= self.max_batched_tokens, "more tokens than the stages' buffers"

    # --- the machine ---------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Do one random thing that can be done; False if there is nothing."""
        actions: list[tuple[SimulatedStage, str, tuple[Tier, Tier] | None]] = []
        for stage in self.stages:
            actions += [
                (stage, "copy", link)
                for link in stage.links_with_copies()
                if self._choose_copy(stage, link) is not None
            ]
            if stage.messages and not stage.is_started:
                actions.append((stage, "start", None))
            elif stage.messages and self._can_forward(stage, stage.messages[0]):
                actions.append((stage, "forward", None))
            if stage.landed and not stage.messages:
                actions.append((stage, "report", None))
        if not actions:
            return False
        stage, action, link = self.random.choice(actions)
        if action == "start":
            self._start(stage)
        elif action == "forward":
            self._forward(stage)
        elif action == "report":
            self._report(stage, 0)
        else:
            assert link is not None
            self._land_copy(stage, link)
        return True

    def _start(self, stage: SimulatedStage) -> None:
        message = stage.messages[0]
        stage.order_copies(message.sequence, message.prefetch)
        stage.order_copies(message.sequence, message.background)
        stage.is_started = True

    def _can_forward(self, stage: SimulatedStage, message: StageInput) -> bool:
        if stage.has_loads_before(message.sequence):
            return False
        if not message.scheduled:
            return True
        if stage.stores_reading(self._written_slots(message)):
            return False
        if stage.index > 0:
            return self.stages[stage.index - 1].last_forwarded >= message.sequence
        return all(
            row.token_ids is not None
            or len(self.texts[row.request_id].token_ids) > row.num_computed_tokens
            for row in message.scheduled
        )

    def _written_slots(self, message: StageInput) -> set[int]:
        return {
            slot
            for row in message.scheduled
            for slot in unpack_int32(row.device_slots)[
                row.num_computed_tokens // self.block_tokens :
            ]
        }

    def _forward(self, stage: SimulatedStage) -> None:
        message = stage.messages.popleft()
        stage.is_started = False
        for row in message.scheduled:
            self._read_kv(stage, message, row)
        for row in message.scheduled:
            self._write_kv(stage, row)
        stage.last_forwarded = message.sequence
        stage.order_copies(message.sequence, message.stores_after)
        if stage.index == len(self.stages) - 1 and message.scheduled:
            sampled = [self._sample(row) for row in message.scheduled if row.needs_sample]
            stage.outbox.append(StepOutput(message.sequence, tuple(sampled)))
        num_tokens = sum(row.num_new_tokens for row in message.scheduled)
        self._report(stage, num_tokens, message.sequence)

    def _read_kv(self, stage: SimulatedStage, message: StageInput, row: ScheduledRequest) -> None:
        text, start = self.texts[row.request_id], row.num_computed_tokens
        end = start + row.num_new_tokens
        if row.token_ids is not None:
            tokens = unpack_int32(row.token_ids)
            assert tokens == text.token_ids[start:end], f"request {row.request_id}: wrong tokens"
        else:
            assert row.num_new_tokens == 1
            assert len(text.token_ids) > start, "no token was fed back"
        for index, slot in enumerate(unpack_int32(row.device_slots)):
            first = index * self.block_tokens
            num_read = min(start, first + self.block_tokens) - first
            if num_read <= 0:
                break
            held = stage.slots.get((Tier.DEVICE, slot), [])[:num_read]
            expected = text.hashes[first : first + num_read]
            assert held == expected, (
                f"stage {stage.index}, message {message.sequence}, request {row.request_id}: "
                f"device slot {slot} does not hold positions {first}..{first + num_read - 1}"
            )

    def _write_kv(self, stage: SimulatedStage, row: ScheduledRequest) -> None:
        slots = unpack_int32(row.device_slots)
        hashes = self.texts[row.request_id].hashes
        start = row.num_computed_tokens
        for position in range(start, start + row.num_new_tokens):
            index, offset = divmod(position, self.block_tokens)
            content = stage.slots.setdefault((Tier.DEVICE, slots[index]), [-1] * self.block_tokens)
            content[offset] = hashes[position]

    def _sample(self, row: ScheduledRequest) -> SampledToken:
        text = self.texts[row.request_id]
        end = row.num_computed_tokens + row.num_new_tokens
        assert end == len(text.token_ids), "sampled in the middle of the text"
        token_id = next_token(text.hashes[-1], self.vocab_size, self.stop_probability)
        text.append(token_id)
        logprobs = TokenLogprobs(token_id, -0.5) if text.logprobs is not None else None
        return SampledToken(row.request_id, token_id, logprobs)

    def _land_copy(self, stage: SimulatedStage, link: tuple[Tier, Tier]) -> None:
        position = self._choose_copy(stage, link)
        assert position is not None
        jobs = stage.pending_copies[link]
        _, job = jobs[position]
        del jobs[position]
        stage.order.remove(job)
        failed = []
        pairs = zip(unpack_int32(job.source_slots), unpack_int32(job.target_slots), strict=True)
        for index, (source, target) in enumerate(pairs):
            content = stage.slots.get((job.source, source), [-1] * self.block_tokens)
            if job.source is Tier.NVME and self.random.random() < self.promote_failures:
                content = [-2] * self.block_tokens
                failed.append(index)
                self.num_bad_blocks += 1
            stage.slots[job.target, target] = list(content)
        num_bytes = SLOT_BYTES * job.num_slots
        seconds = num_bytes / self.link_bytes_per_second
        stage.landed.append(CopyResult(job.job_id, num_bytes, seconds, tuple(failed)))

    def _choose_copy(self, stage: SimulatedStage, link: tuple[Tier, Tier]) -> int | None:
        """Loads and stores are streams, first in first out; NVMe jobs land in any order. A copy
        waits for earlier ones of other links that touch its slots."""
        jobs = stage.pending_copies[link]
        positions = range(len(jobs)) if Tier.NVME in link else range(1)
        free = [index for index in positions if not stage.must_wait(jobs[index][1])]
        return self.random.choice(free) if free else None

    def _report(self, stage: SimulatedStage, num_tokens: int, sequence: int | None = None) -> None:
        copies, stage.landed = tuple(stage.landed), []
        compute_seconds = 1e-3 + 1e-5 * num_tokens if num_tokens else 0.0
        stage.outbox.append(
            StageReport(
                sequence=stage.last_forwarded if sequence is None else sequence,
                stage=stage.index,
                num_tokens=num_tokens,
                compute_seconds=compute_seconds,
                stall_seconds=0.0,
                wait_seconds=0.0,
                copies=copies,
            )
        )

    def _deliver(self) -> list[ExecutorEvent]:
        events: list[ExecutorEvent] = []
        stages = list(self.stages)
        self.random.shuffle(stages)
        for stage in stages:
            num_events = len(stage.outbox)
            if not self.eager and num_events > 1:
                num_events = self.random.randint(1, num_events)
            events += [stage.outbox.popleft() for _ in range(num_events)]
        return events
