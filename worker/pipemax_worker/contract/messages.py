"""What driver and stages say to each other, and the protocol that carries it.

One writer, one order: the driver writes a sequence of :class:`StageInput`; every stage runs the
same sequence in the same order. *The driver's table is the state as of the message it writes, not
as of now.* So message t may order loads into device slots whose blocks micro-batch t-1 used: each
stage starts them after its own forward of t-1.

One stage, one message t:

    1. start ``prefetch`` (HOST->DEVICE, read from message t+1 on) and ``background`` (HOST<->NVME)
    2. wait for every load ordered by messages before t: that wait is the stall
    3. receive hidden (stage 0: token ids, or tokens fed back by the last stage) -> forward -> send
    4. start ``stores_after`` (DEVICE->HOST of blocks that t filled)
    5. report, with the results of all copies that have landed since the last report

Rules that make this safe, kept by ``kvcache.BlockManager``:
- ``prefetch`` of t never targets a slot that micro-batch t reads or writes;
- a device slot is given away only if the block has a HOST copy: one ordered by an earlier message
  (the stage keeps copies that touch the same slot in order, and a forward waits for the stores that
  still read what it overwrites: decision 0005);
- a HOST or NVME slot that a copy uses is reused only once the copy is reported by all stages;
- a promoted block is loaded only once its promote is reported by all stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from pipemax_worker.contract.request import SamplingParams, TokenLogprobs
from pipemax_worker.contract.transfers import CopyJob, CopyResult


class NewRequest(msgspec.Struct, frozen=True):
    """Sent once, before a request's first :class:`ScheduledRequest`. The last stage keeps it for
    sampling until its id is in ``finished_ids``. Token ids are int32 bytes."""

    request_id: int
    prompt_token_ids: bytes
    output_token_ids: bytes
    sampling: SamplingParams
    seed: int


class ScheduledRequest(msgspec.Struct, frozen=True, gc=False):
    """One row of a micro-batch: ``num_new_tokens`` tokens at positions ``num_computed_tokens``...

    token_ids      int32 bytes of the new tokens; None: the one token that the last stage has just
                   sampled for this request and feeds back to stage 0.
    device_slots   int32 bytes: slots of blocks 0..k that hold positions
                   0..num_computed_tokens + num_new_tokens - 1.
    needs_sample   the last new token's logits are sampled (False: a prompt chunk that is not last).
    """

    request_id: int
    num_computed_tokens: int
    num_new_tokens: int
    token_ids: bytes | None
    device_slots: bytes
    needs_sample: bool


class StageInput(msgspec.Struct, frozen=True, tag="step"):
    """One turn. ``scheduled`` may be empty: then only the copies are carried out."""

    sequence: int
    micro_batch_id: int
    scheduled: tuple[ScheduledRequest, ...] = ()
    new_requests: tuple[NewRequest, ...] = ()
    finished_ids: tuple[int, ...] = ()
    stores_after: tuple[CopyJob, ...] = ()
    prefetch: tuple[CopyJob, ...] = ()
    background: tuple[CopyJob, ...] = ()


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End of the sequence: finish copies, close files, exit.

    remove_nvme_files   False: the KV file stays, on the disk before the stage exits with 0, and
                        beside it ``stage-K.index``, by which a later run may adopt it.
    """

    remove_nvme_files: bool = True


class StageReady(msgspec.Struct, frozen=True, tag="ready"):
    """A stage has loaded its layers and allocated its tiers.

    adoption_fault   why the KV file that it was told to adopt is empty instead, or None.
    """

    stage: int
    load_seconds: float
    weight_bytes: int
    nvme_direct_io: bool
    adoption_fault: str | None = None


class StageReport(msgspec.Struct, frozen=True, tag="report"):
    """From every stage after every message, and again without a new message when copies land while
    the stage is idle (``num_tokens`` is 0 then and the times are 0).

    stall_seconds     step 2 above.
    compute_seconds   the forward alone.
    wait_seconds      waiting for hidden states or fed-back tokens (the pipeline bubble).
    grammar_wait_seconds  waiting for grammar masks before sampling; a part of ``compute_seconds``.
    """

    sequence: int
    stage: int
    num_tokens: int
    compute_seconds: float
    stall_seconds: float
    wait_seconds: float
    copies: tuple[CopyResult, ...] = ()
    grammar_wait_seconds: float = 0.0


class SampledToken(msgspec.Struct, frozen=True, gc=False):
    """``error``: the request cannot go on (its grammar failed), and why; the token means nothing
    then."""

    request_id: int
    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


class StepOutput(msgspec.Struct, frozen=True, tag="output"):
    """From the last stage: one token for each row that ``needs_sample``, in row order."""

    sequence: int
    sampled: tuple[SampledToken, ...]


class StageFailed(msgspec.Struct, frozen=True, tag="failed"):
    """A stage's last words: an error it can name. ``reason`` is a ``PipemaxError.reason``."""

    stage: int
    reason: str
    message: str


class StageDied(msgspec.Struct, frozen=True, tag="died"):
    """Made by the executor when a stage process is gone. ``exit_code`` as ``Popen.returncode``."""

    stage: int
    exit_code: int
    last_sequence: int
    reason: str = "StageDied"
    message: str = ""


StageEvent = StageReady | StageReport | StepOutput | StageFailed
ExecutorEvent = StageReport | StepOutput | StageDied


class Executor(Protocol):
    """Carries messages to the stages and brings back what they say. Two-phase: submit, collect."""

    def submit(self, stage_input: StageInput) -> None:
        """Hand over the next message. Never blocks on compute."""
        ...

    def collect(self, timeout_seconds: float) -> Sequence[ExecutorEvent]:
        """Everything that has arrived, waiting at most ``timeout_seconds`` for the first of it."""
        ...

    def drain(self) -> None:
        """Stop the stages and release what they hold. Idempotent."""
        ...

    def park(self, timeout_seconds: float) -> None:
        """Stop the stages, with what their NVMe slots hold kept for a later pipeline to adopt.

        Raises StageDiedError, or what a stage names as its reason, unless all end cleanly in time;
        they are killed then. ``drain`` does the rest.
        """
        ...


ENCODER = msgspec.msgpack.Encoder()
STAGE_INPUT_DECODER = msgspec.msgpack.Decoder(StageInput | Shutdown)
STAGE_EVENT_DECODER = msgspec.msgpack.Decoder(StageEvent)


PARK_INDEX_NAME = "park.json"
"""The driver's file beside the KV files that says: these are kept for a later run."""


class StageConfig(msgspec.Struct, frozen=True):
    """All that a stage process needs to start, as msgpack on its command line's socket.

    device            ``cpu`` or ``cuda:K``.
    dtype             weights and activations: ``float32``, ``bfloat16`` or ``float16``.
    first_layer       of the model whose attention is on this stage; the number, and which MLPs are,
                      says ``geometry.cut``.
    dummy_weights_seed   random weights of this seed in place of those in ``model_folder``, or None.
    nvme_path         this stage's KV file (the folder exists), or None.
    adopt_nvme_file   it is there, with KV that an earlier run has parked.
    uses_nccl         of links between GPUs; else hidden states go through host memory.
    *_address         zmq endpoints; hidden and feedback links are None where there is no neighbour.
    """

    stage: int
    num_stages: int
    model_folder: str
    model_config: bytes
    device: str
    dtype: str
    first_layer: int
    geometry: bytes
    nvme_path: str | None
    num_threads: int
    max_batched_tokens: int
    max_num_requests: int
    input_address: str
    event_address: str
    hidden_in_address: str | None
    hidden_out_address: str | None
    feedback_address: str | None
    rendezvous: str | None = None
    memory_limit_bytes: int | None = None
    dummy_weights_seed: int | None = None
    adopt_nvme_file: bool = False
    uses_nccl: bool = True
