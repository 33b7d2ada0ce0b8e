"""A single stage that launches messages ahead generates what one without does: a real model on the
CPU, its steps through FlashInfer's tables."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from kit.flashinfer_emulator import emulated_flashinfer
from kit.kv_tiers import make_tiers
from kit.models import VOCAB_SIZE, save_model
from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.contract.messages import (
    NewRequest,
    ScheduledRequest,
    Shutdown,
    StageEvent,
    StageInput,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.device_tokens import DeviceTokens
from pipemax_worker.stage.feedback import FeedbackReceiver
from pipemax_worker.stage.kv.mover import KVMover
from pipemax_worker.stage.model.checkpoint import Checkpoint
from pipemax_worker.stage.model.cuda.steps import CudaSteps
from pipemax_worker.stage.model.model import StageModel
from pipemax_worker.stage.runner import StageRunner
from pipemax_worker.stage.sampler import Sampler

CPU = torch.device("cpu")
BLOCK_TOKENS = 4
PROMPTS = {0: [5, 6, 7, 8, 9, 10], 1: [11], 2: [12, 13, 14]}
NUM_STEPS = 9


class NoChannel:
    """A single stage has no neighbours."""

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        raise AssertionError

    def has_arrived(self) -> bool:
        raise AssertionError

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        raise AssertionError

    def close(self) -> None: ...


@dataclass
class Stage:
    """A runner, the driver's messages to it, and all that it said."""

    folder: Path
    model_folder: Path
    overlaps: bool
    events: list[StageEvent] = field(default_factory=list)
    inputs: deque[StageInput | Shutdown] = field(default_factory=deque)
    num_unfinished_at_launch: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = load_model_config(self.model_folder)
        weights = Checkpoint(self.model_folder, CPU, torch.float32)
        self.model = StageModel(config, weights, 0, 4, True, True, CPU, torch.float32)
        self.model._cuda = CudaSteps(
            config, emulated_flashinfer(), self.model._rope, CPU, torch.float32,
            is_first=True, is_last=True, uses_graphs=False,
        )  # fmt: skip
        device, host, self.nvme = make_tiers(self.folder)
        self.mover = KVMover(device, host, self.nvme)
        heads = (config.num_key_value_heads, config.head_dim)
        self.kv = torch.zeros(41, 4, 2, BLOCK_TOKENS, *heads)
        ring = self.model.token_ring
        assert ring is not None
        tokens = FeedbackReceiver(None)
        self.runner = StageRunner(
            stage=0,
            device=CPU,
            block_tokens=BLOCK_TOKENS,
            model=self,
            kv=self.kv,
            mover=self.mover,
            channel=NoChannel(),
            tokens=tokens,
            sampler=Sampler(VOCAB_SIZE, CPU),
            feedback=tokens,
            send_event=self.events.append,
            overlaps=self.overlaps,
            device_tokens=DeviceTokens(ring) if self.overlaps else None,
        )

    def forward(self, entering: torch.Tensor, batch: object, kv: torch.Tensor) -> torch.Tensor:
        self.num_unfinished_at_launch.append(len(self.runner._launched))
        return self.model.forward(entering, batch, kv)  # type: ignore[arg-type]

    def receive(self, wakeup_fd: int) -> StageInput | Shutdown | None:
        return self.inputs.popleft()

    def receive_now(self) -> StageInput | Shutdown | None:
        return self.inputs.popleft()

    def run(self, messages: list[StageInput]) -> dict[int, list[int]]:
        """All messages are there at once; request id -> its tokens."""
        self.inputs.extend([*messages, Shutdown()])
        assert self.runner.run_forever(self) == Shutdown()
        self.mover.close()
        self.nvme.close()
        outputs: dict[int, list[int]] = {}
        for event in self.events:
            if isinstance(event, StepOutput):
                for sampled in event.sampled:
                    outputs.setdefault(sampled.request_id, []).append(sampled.token_id)
        return outputs


def messages(params: dict[int, SamplingParams]) -> list[StageInput]:
    """Prompts, then a token a step that is fed back; request 2 joins in the third message."""
    lengths: dict[int, int] = {}
    result = []
    for sequence in range(NUM_STEPS):
        new = [n for n in PROMPTS if n not in lengths and (n < 2 or sequence >= 2)]
        rows = [row(n, lengths, None) for n in lengths]
        rows += [row(n, lengths, PROMPTS[n]) for n in new]
        requests = tuple(NewRequest(n, pack_int32(PROMPTS[n]), b"", params[n], n) for n in new)
        result.append(StageInput(sequence, 0, tuple(rows), requests))
    return result


def row(request_id: int, lengths: dict[int, int], prompt: list[int] | None) -> ScheduledRequest:
    computed, new = lengths.get(request_id, 0), len(prompt or [0])
    lengths[request_id] = computed + new
    first = 10 * request_id
    slots = range(first, first + num_blocks_for(computed + new, BLOCK_TOKENS))
    token_ids = None if prompt is None else pack_int32(prompt)
    return ScheduledRequest(request_id, computed, new, token_ids, pack_int32(list(slots)), True)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


GREEDY = SamplingParams(max_tokens=99, temperature=0.0)
DRAWN = SamplingParams(max_tokens=99, temperature=1.5)
WITH_LOGPROBS = SamplingParams(max_tokens=99, temperature=0.0, logprobs=2)


@pytest.mark.parametrize("third", [GREEDY, DRAWN, WITH_LOGPROBS])
def test_same_tokens_as_one_at_a_time(
    third: SamplingParams, tmp_path: Path, model_folder: Path
) -> None:
    steps = messages({0: GREEDY, 1: GREEDY, 2: third})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ahead = Stage(tmp_path / "a", model_folder, overlaps=True)
    plain = Stage(tmp_path / "b", model_folder, overlaps=False)
    outputs = ahead.run(steps)
    assert outputs == plain.run(steps)
    assert [len(outputs[n]) for n in PROMPTS] == [NUM_STEPS, NUM_STEPS, NUM_STEPS - 2]
    torch.testing.assert_close(ahead.kv[:-1], plain.kv[:-1])
    assert plain.num_unfinished_at_launch == [0] * NUM_STEPS
    expected = [0] + [1] * (NUM_STEPS - 1) if third is GREEDY else [0, 1, 1] + [0] * 6
    assert ahead.num_unfinished_at_launch == expected


def test_outputs_and_reports_come_in_turn(tmp_path: Path, model_folder: Path) -> None:
    stage = Stage(tmp_path, model_folder, overlaps=True)
    stage.run([*messages({n: GREEDY for n in PROMPTS}), StageInput(NUM_STEPS, 0)])
    kinds = [(type(event), event.sequence) for event in stage.events]  # type: ignore[union-attr]
    expected: list[tuple[type, int]] = []
    for sequence in range(NUM_STEPS):
        expected += [(StepOutput, sequence), (StageReport, sequence)]
    assert kinds == [*expected, (StageReport, NUM_STEPS)]
