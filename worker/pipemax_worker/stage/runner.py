"""The loop of one stage: one message after the other, each by the five steps of
``contract.messages``. Knows neither sockets nor processes.

On a GPU a message is *launched* while the one before it is still being computed, and *finished*
when the GPU is through with it: so the GPU need not wait for the host between two messages. The
order of everything is that of the messages all the same: on the device by its stream, towards the
driver because messages are finished in turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipemax_worker.contract.messages import (
    SampledToken,
    ScheduledRequest,
    Shutdown,
    StageEvent,
    StageInput,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import Batch, build_batch, written_slots
from pipemax_worker.stage.channel import ActivationChannel
from pipemax_worker.stage.device_tokens import DeviceTokens
from pipemax_worker.stage.feedback import FeedbackReceiver, fed_back
from pipemax_worker.stage.kv.mover import KVMover
from pipemax_worker.stage.parts import (
    ChosenTokens,
    Inbox,
    Model,
    PreparingModel,
    TokenSampler,
    TokenSink,
)
from pipemax_worker.stage.step_timer import DeviceTimer, HostTimer, StepTimer, StepTimes

POLL_SECONDS = 2e-5

UNKNOWN_TOKEN = pack_int32([0])
"""Stands for a token that only the device knows."""


@dataclass
class LaunchedStep:
    """A message that the device computes, or has computed. ``timer`` is None without rows."""

    sequence: int
    num_tokens: int = 0
    timer: StepTimer | None = None
    sampled_ids: tuple[int, ...] = ()
    chosen: ChosenTokens | None = None
    sampled: Sequence[SampledToken] = ()
    grammar_wait_seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.timer is None or self.timer.is_done


class StageRunner:
    """Runs the driver's messages on one stage.

    model         this stage's layers, computing on ``kv``, the typed view of the device tier.
    channel       the hidden links; unused at the ends of the chain.
    tokens        stage 0 only: where tokens that the driver does not send come from.
    sampler       last stage only; ``feedback`` takes what it samples.
    send_event    to the driver.
    overlaps      launch a message while the one before it is computed. ``device_tokens``: for that,
                  where a stage is first and last.
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
        overlaps: bool = False,
        device_tokens: DeviceTokens | None = None,
    ) -> None:
        self._stage, self._device, self._block_tokens = stage, device, block_tokens
        self._model, self._kv, self._mover, self._channel = model, kv, mover, channel
        self._tokens, self._sampler, self._feedback = tokens, sampler, feedback
        self._send_event = send_event
        self._overlaps, self._device_tokens = overlaps, device_tokens
        self._loads_in_flight: list[int] = []
        self._last_sequence = -1
        self._launched: deque[LaunchedStep] = deque()
        self._last_timer: DeviceTimer | None = None

    def run_forever(self, inbox: Inbox) -> Shutdown:
        """Run messages until :class:`Shutdown`, and report copies that land in between."""
        while True:
            message = self._next_message(inbox)
            if isinstance(message, Shutdown):
                self._finish_all()
                return message
            self._launch(message)
            while len(self._launched) > self._overlaps:
                self._finish_first()

    def run_one(self, step: StageInput) -> None:
        """Carry out one message and report it."""
        self._launch(step)
        self._finish_all()

    def _next_message(self, inbox: Inbox) -> StageInput | Shutdown:
        """Meanwhile launched steps are finished and landed copies reported, each when it is time.

        While a step is computed its end is polled for, and so is the inbox, with short sleeps: the
        threads that copy need Python's lock in between.
        """
        while True:
            if not self._launched:
                message = inbox.receive(self._mover.wakeup_fd)
                if message is None:
                    self._report_landed_copies()
            else:
                message = inbox.receive_now()
                if message is None and self._launched[0].is_done:
                    self._finish_first()
                elif message is None:
                    time.sleep(POLL_SECONDS)
            if message is not None:
                return message

    @torch.inference_mode()
    def _launch(self, step: StageInput) -> None:
        self._mover.submit(step.prefetch)
        self._mover.submit(step.background)
        self._update_requests(step)
        launched = LaunchedStep(step.sequence)
        if step.scheduled:
            self._launch_micro_batch(step, launched)
        self._launched.append(launched)
        self._loads_in_flight += (job.job_id for job in step.prefetch)
        self._mover.submit(step.stores_after)
        if launched.sampled:
            self._finish_all()  # known already: the next message may ask for them

    def _launch_micro_batch(self, step: StageInput, launched: LaunchedStep) -> None:
        timer = launched.timer = self._new_timer()
        launched.num_tokens = sum(row.num_new_tokens for row in step.scheduled)
        batch = build_batch(step.scheduled, self._block_tokens, self._device)
        if isinstance(self._model, PreparingModel):
            self._model.prepare(batch, self._kv)
        timer.copies_wanted()
        self._wait_for_copies(step.scheduled)
        timer.copies_landed()
        if self._tokens is None:
            self._finish_until_input_arrives()
            timer.inputs_known()
            entering = self._channel.receive(batch.num_tokens, step.sequence)
        else:
            entering, batch = self._collect_tokens(step, batch, self._tokens)
            timer.inputs_known()
        timer.received()
        leaving = self._model.forward(entering, batch, self._kv)
        if self._sampler is None:
            self._channel.send(leaving, step.sequence)
        else:
            self._sample(self._sampler, launched, batch.sample_ids, leaving)
        timer.computed()

    def _finish_until_input_arrives(self) -> None:
        """The first stage may wait for the tokens of launched steps before it sends."""
        while self._launched and not self._channel.has_arrived():
            if self._launched[0].is_done:
                self._finish_first()
            else:
                time.sleep(POLL_SECONDS)

    def _new_timer(self) -> StepTimer:
        if self._device.type != "cuda":
            return HostTimer()
        self._last_timer = DeviceTimer(self._device, self._last_timer)
        return self._last_timer

    def _wait_for_copies(self, scheduled: Sequence[ScheduledRequest]) -> None:
        self._mover.wait_for_readers(written_slots(scheduled, self._block_tokens))
        self._mover.wait_before_launch(self._loads_in_flight)
        self._loads_in_flight.clear()

    def _collect_tokens(
        self, step: StageInput, batch: Batch, tokens: FeedbackReceiver
    ) -> tuple[torch.Tensor, Batch]:
        """Token ids [num_tokens] on the host, and the batch with the places of those that only the
        device knows."""
        token_ids = bytearray()
        places: list[tuple[int, int]] = []
        for row in step.scheduled:
            if row.token_ids is not None:
                token_ids += row.token_ids
                continue
            place = self._place_of(row.request_id)
            if place is None:
                token_ids += pack_int32([tokens.take(row.request_id)])
            else:
                places.append((len(token_ids) // 4, place))
                token_ids += UNKNOWN_TOKEN
        # Only now: a row's own token is asked for before its message samples the next one.
        tokens.expect(step.sequence, batch.sample_ids)
        if places:
            fed = np.full(batch.num_tokens, -1, np.int64)
            rows, where = np.array(places, np.int64).T
            fed[rows] = where
            batch = replace(batch, fed_back=fed)
        return torch.frombuffer(token_ids, dtype=torch.int32).long(), batch

    def _place_of(self, request_id: int) -> int | None:
        return None if self._device_tokens is None else self._device_tokens.place_of(request_id)

    def _sample(
        self,
        sampler: TokenSampler,
        launched: LaunchedStep,
        request_ids: tuple[int, ...],
        logits: torch.Tensor,
    ) -> None:
        launched.sampled_ids = request_ids
        if not request_ids:
            return
        waited = sampler.grammar_wait_seconds
        if self._can_choose_later(len(request_ids)):
            launched.chosen = sampler.launch(request_ids, logits)
        if launched.chosen is None:
            self._finish_all()  # what is sampled here may depend on what they sampled
            launched.sampled = sampler.sample(request_ids, logits)
        elif self._device_tokens is not None:
            self._device_tokens.put(launched.sequence, request_ids, launched.chosen.on_device)
        launched.grammar_wait_seconds = sampler.grammar_wait_seconds - waited

    def _can_choose_later(self, num_rows: int) -> bool:
        if self._device_tokens is not None:
            return self._overlaps and num_rows <= self._device_tokens.max_tokens
        return self._overlaps and self._tokens is None

    def _finish_all(self) -> None:
        while self._launched:
            self._finish_first()

    def _finish_first(self) -> None:
        """Wait for the oldest launched step and say what became of it."""
        step = self._launched.popleft()
        times = StepTimes() if step.timer is None else step.timer.finish()
        if step.timer is not None and self._sampler is not None:
            self._hand_over(step)
        self._last_sequence = step.sequence
        self._send_event(
            StageReport(
                sequence=step.sequence,
                stage=self._stage,
                num_tokens=step.num_tokens,
                copies=tuple(self._mover.get_finished()),
                grammar_wait_seconds=step.grammar_wait_seconds,
                **times._asdict(),
            )
        )

    def _hand_over(self, step: LaunchedStep) -> None:
        """Tokens to stage 0 and to the driver."""
        sampled = step.sampled if step.chosen is None else step.chosen.finish()
        if self._device_tokens is not None:
            self._device_tokens.forget(step.sequence, step.sampled_ids)
        if sampled and self._feedback is not None:
            self._feedback.deliver(fed_back(step.sequence, sampled))
        self._send_event(StepOutput(step.sequence, tuple(sampled)))

    def _update_requests(self, step: StageInput) -> None:
        if self._tokens is not None:
            self._tokens.forget(step.finished_ids)
        if self._sampler is not None:
            for request_id in step.finished_ids:
                self._sampler.remove(request_id)
            for request in step.new_requests:
                self._sampler.add(request)

    def _report_landed_copies(self) -> None:
        copies = tuple(self._mover.get_finished())
        if copies:
            report = StageReport(self._last_sequence, self._stage, 0, 0.0, 0.0, 0.0, copies)
            self._send_event(report)
