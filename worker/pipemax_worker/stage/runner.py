"""The loop of one stage: one message after the other, each by the five steps of
``contract.messages``. Knows neither sockets nor processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

from pipemax_worker.contract.messages import (
    NewRequest,
    SampledToken,
    ScheduledRequest,
    Shutdown,
    StageEvent,
    StageInput,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.transfers import pack_int32, unpack_int32
from pipemax_worker.stage.batch import Batch, build_batch
from pipemax_worker.stage.channel import ActivationChannel
from pipemax_worker.stage.feedback import FedBackTokens, FeedbackReceiver, fed_back
from pipemax_worker.stage.kv.mover import KVMover


class Model(Protocol):
    def forward(
        self, entering: torch.Tensor, batch: Batch, kv: torch.Tensor, /
    ) -> torch.Tensor: ...


class TokenSampler(Protocol):
    @property
    def grammar_wait_seconds(self) -> float: ...

    def add(self, request: NewRequest) -> None: ...

    def remove(self, request_id: int) -> None: ...

    def sample(
        self, request_ids: Sequence[int], logits: torch.Tensor
    ) -> Sequence[SampledToken]: ...


class TokenSink(Protocol):
    def deliver(self, tokens: FedBackTokens) -> None: ...


class Inbox(Protocol):
    def receive(self, wakeup_fd: int) -> StageInput | Shutdown | None:
        """The next message, or None once ``wakeup_fd`` is readable and no message is there."""
        ...


class StepTimes(NamedTuple):
    compute_seconds: float = 0.0
    stall_seconds: float = 0.0
    wait_seconds: float = 0.0
    grammar_wait_seconds: float = 0.0


class StageRunner:
    """Runs the driver's messages on one stage.

    model       this stage's layers, computing on ``kv``, the typed view of the device tier.
    channel     the hidden links; unused at the ends of the chain.
    tokens      stage 0 only: where tokens that the driver does not send come from.
    sampler     last stage only; ``feedback`` takes what it samples.
    send_event  to the driver.
    """

    def __init__(
        self,
        *,
        stage: int,
        device: torch.device,
        block_tokens: int,
        model: Model,
        kv: torch.Tensor,
        mover: KVMover,
        channel: ActivationChannel,
        tokens: FeedbackReceiver | None,
        sampler: TokenSampler | None,
        feedback: TokenSink | None,
        send_event: Callable[[StageEvent], None],
    ) -> None:
        self._stage, self._device, self._block_tokens = stage, device, block_tokens
        self._model, self._kv, self._mover, self._channel = model, kv, mover, channel
        self._tokens, self._sampler, self._feedback = tokens, sampler, feedback
        self._send_event = send_event
        self._loads_in_flight: list[int] = []
        self._last_sequence = -1

    def run_forever(self, inbox: Inbox) -> Shutdown:
        """Run messages until :class:`Shutdown`, and report copies that land in between."""
        while True:
            message = inbox.receive(self._mover.wakeup_fd)
            if isinstance(message, Shutdown):
                return message
            if message is None:
                self._report_landed_copies()
            else:
                self.run_one(message)

    @torch.inference_mode()
    def run_one(self, step: StageInput) -> None:
        """Carry out one message and report it."""
        self._last_sequence = step.sequence
        self._mover.submit(step.prefetch)
        self._mover.submit(step.background)
        self._update_requests(step)
        times = self._run_micro_batch(step) if step.scheduled else StepTimes()
        self._loads_in_flight += (job.job_id for job in step.prefetch)
        self._mover.submit(step.stores_after)
        self._report(sum(row.num_new_tokens for row in step.scheduled), times)

    def _run_micro_batch(self, step: StageInput) -> StepTimes:
        batch = build_batch(step.scheduled, self._block_tokens, self._device)
        start = time.perf_counter()
        self._wait_for_copies(step.scheduled)
        copies_landed = time.perf_counter()
        entering = self._receive(step, batch)
        received = time.perf_counter()
        leaving = self._model.forward(entering, batch, self._kv)
        waited = self._grammar_wait_seconds
        sampled = self._sample(step.scheduled, leaving)
        self._synchronize()
        computed = time.perf_counter()
        self._send(step.sequence, leaving, sampled)
        return StepTimes(
            compute_seconds=computed - received,
            stall_seconds=copies_landed - start,
            wait_seconds=received - copies_landed,
            grammar_wait_seconds=self._grammar_wait_seconds - waited,
        )

    @property
    def _grammar_wait_seconds(self) -> float:
        return 0.0 if self._sampler is None else self._sampler.grammar_wait_seconds

    def _wait_for_copies(self, scheduled: Sequence[ScheduledRequest]) -> None:
        self._mover.wait(self._loads_in_flight)
        self._loads_in_flight.clear()
        self._mover.wait_for_readers(_written_slots(scheduled, self._block_tokens))

    def _receive(self, step: StageInput, batch: Batch) -> torch.Tensor:
        if self._tokens is None:
            return self._channel.receive(batch.num_tokens, step.sequence)
        token_ids = bytearray()
        for row in step.scheduled:
            if row.token_ids is not None:
                token_ids += row.token_ids
            else:
                token_ids += pack_int32([self._tokens.take(row.request_id)])
        # Only now: a row's own token is asked for before its message samples the next one.
        self._tokens.expect(
            step.sequence, (row.request_id for row in step.scheduled if row.needs_sample)
        )
        return torch.frombuffer(token_ids, dtype=torch.int32).long()

    def _sample(
        self, scheduled: Sequence[ScheduledRequest], logits: torch.Tensor
    ) -> Sequence[SampledToken]:
        request_ids = [row.request_id for row in scheduled if row.needs_sample]
        if self._sampler is None or not request_ids:
            return ()
        return self._sampler.sample(request_ids, logits)

    def _send(self, sequence: int, leaving: torch.Tensor, sampled: Sequence[SampledToken]) -> None:
        if self._sampler is None:
            self._channel.send(leaving, sequence)
            return
        if sampled and self._feedback is not None:
            self._feedback.deliver(fed_back(sequence, sampled))
        self._send_event(StepOutput(sequence, tuple(sampled)))

    def _update_requests(self, step: StageInput) -> None:
        if self._tokens is not None:
            self._tokens.forget(step.finished_ids)
        if self._sampler is not None:
            for request_id in step.finished_ids:
                self._sampler.remove(request_id)
            for request in step.new_requests:
                self._sampler.add(request)

    def _report(self, num_tokens: int, times: StepTimes) -> None:
        self._send_event(
            StageReport(
                sequence=self._last_sequence,
                stage=self._stage,
                num_tokens=num_tokens,
                copies=tuple(self._mover.get_finished()),
                **times._asdict(),
            )
        )

    def _report_landed_copies(self) -> None:
        copies = tuple(self._mover.get_finished())
        if copies:
            report = StageReport(self._last_sequence, self._stage, 0, 0.0, 0.0, 0.0, copies)
            self._send_event(report)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _written_slots(scheduled: Sequence[ScheduledRequest], block_tokens: int) -> Iterator[int]:
    """Device slots that the new tokens go to. Lazy: needed only while stores are under way."""
    for row in scheduled:
        first_block = row.num_computed_tokens // block_tokens
        yield from unpack_int32(row.device_slots[4 * first_block :])
