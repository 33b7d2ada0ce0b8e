"""The five steps of a message on one stage, with real tiers and a scripted neighbourhood."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from kit.kv_tiers import CPU, copy_job, fill_with_random_bytes, make_tiers
from kit.pipeline_driver import new_request
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import (
    NewRequest,
    SampledToken,
    ScheduledRequest,
    Shutdown,
    StageInput,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.transfers import CopyJob, pack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.feedback import FedBackTokens, FeedbackReceiver
from pipemax_worker.stage.kv.copiers import CopyOutcome, MemoryCopier
from pipemax_worker.stage.kv.mover import KVMover
from pipemax_worker.stage.runner import StageRunner

D, H = Tier.DEVICE, Tier.HOST
BLOCK_TOKENS = 8


class Computing:
    """A timer whose step has not ended."""

    is_done = False

    def __init__(self, timer: object) -> None:
        self._timer = timer

    def __getattr__(self, name: str) -> object:
        return getattr(self._timer, name)


class Neighbourhood:
    """Model, channel, sampler and driver of one stage; keeps what happened, in order."""

    def __init__(self, folder: Path, stage: int, num_stages: int) -> None:
        self.log: list[object] = []
        self.device, self.host, self.nvme = make_tiers(folder)
        self.mover = KVMover(self.device, self.host, self.nvme)
        self.is_last = stage == num_stages - 1
        self.tokens = FeedbackReceiver(None) if stage == 0 else None
        self.inputs: list[StageInput | Shutdown | None] = []
        self.during_forward = lambda: None
        self.polls_until_input = 1
        self.grammar_wait_seconds = 0.0
        self.runner = StageRunner(
            stage=stage,
            device=CPU,
            block_tokens=BLOCK_TOKENS,
            model=self,
            kv=self.device.blocks,
            mover=self.mover,
            channel=self,
            tokens=self.tokens,
            sampler=self if self.is_last else None,
            feedback=self if self.is_last else None,
            send_event=self.log.append,
        )

    def forward(self, entering: torch.Tensor, batch: object, kv: torch.Tensor) -> torch.Tensor:
        self.log.append(("forward", entering.tolist()))
        self.during_forward()
        return torch.zeros(3)

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        self.log.append(("send", sequence))

    def has_arrived(self) -> bool:
        self.polls_until_input -= 1
        return self.polls_until_input < 0

    def receive(self, num_tokens: int, sequence: int | None = None) -> torch.Tensor:
        if sequence is None:  # the inbox; the argument is the wake-up
            return self.inputs.pop(0)  # type: ignore[return-value]
        self.log.append(("receive", num_tokens, sequence))
        return torch.full((num_tokens,), 0.5)

    def add(self, request: NewRequest) -> None:
        self.log.append(("add", request.request_id))

    def remove(self, request_id: int) -> None:
        self.log.append(("remove", request_id))

    def sample(self, request_ids: list[int], logits: torch.Tensor) -> list[SampledToken]:
        self.grammar_wait_seconds += 0.5
        return [SampledToken(request_id, 70 + request_id) for request_id in request_ids]

    def deliver(self, tokens: FedBackTokens) -> None:
        self.log.append(tokens)
        if self.tokens is not None:
            self.tokens.deliver(tokens)

    def close(self) -> None:
        self.mover.close()
        self.nvme.close()

    @property
    def reports(self) -> list[StageReport]:
        return [event for event in self.log if isinstance(event, StageReport)]


@pytest.fixture
def make_stage(tmp_path: Path):
    made: list[Neighbourhood] = []

    def make(stage: int, num_stages: int) -> Neighbourhood:
        made.append(Neighbourhood(tmp_path, stage, num_stages))
        return made[-1]

    yield make
    for neighbourhood in made:
        neighbourhood.close()


def row(
    request_id: int,
    computed: int,
    tokens: list[int] | None,
    slots: list[int],
    needs_sample: bool = True,
) -> ScheduledRequest:
    packed = None if tokens is None else pack_int32(tokens)
    num_new = 1 if tokens is None else len(tokens)
    return ScheduledRequest(request_id, computed, num_new, packed, pack_int32(slots), needs_sample)


def message(sequence: int, *rows: ScheduledRequest, **copies: tuple[CopyJob, ...]) -> StageInput:
    return StageInput(sequence, 0, scheduled=rows, **copies)


def test_a_middle_stage_receives_computes_sends_and_reports(make_stage) -> None:
    stage = make_stage(1, 3)
    stage.runner.run_one(message(4, row(1, 0, [5, 6], [0]), row(2, 8, [7], [1, 2], False)))
    *steps, report = stage.log
    assert steps == [("receive", 3, 4), ("forward", [0.5, 0.5, 0.5]), ("send", 4)]
    assert (report.sequence, report.stage, report.num_tokens) == (4, 1, 3)


@pytest.mark.parametrize("polls", [0, 1, 5])
def test_a_step_is_finished_while_the_next_ones_input_is_not_there(polls: int, make_stage) -> None:
    """Else the first stage could wait for its tokens, and this one for the first: a deadlock."""
    stage = make_stage(2, 3)
    stage.runner._launch(message(0, row(1, 0, [5], [0], False)))
    stage.polls_until_input = polls
    stage.runner._launch(message(1, row(1, 1, [5], [0], False)))
    before = stage.log[: stage.log.index(("receive", 1, 1))]
    reported = [event.sequence for event in before if isinstance(event, StageReport)]
    assert reported == ([0] if polls else [])


def test_a_step_that_is_still_computed_is_not_waited_for(make_stage) -> None:
    stage = make_stage(2, 3)
    stage.runner._launch(message(0, row(1, 0, [5], [0], False)))
    (launched,) = stage.runner._launched
    launched.timer = Computing(launched.timer)
    stage.polls_until_input = 3
    stage.runner._launch(message(1, row(1, 1, [5], [0], False)))
    assert not any(isinstance(event, StageReport) for event in stage.log)


def test_the_last_stage_samples_the_rows_that_ask_and_feeds_back_first(make_stage) -> None:
    stage = make_stage(2, 3)
    stage.runner.run_one(message(0, row(1, 0, [5], [0]), row(2, 0, [6], [1], False)))
    assert stage.log[2:4] == [
        FedBackTokens(0, (1,), (71,)),
        StepOutput(0, (SampledToken(1, 71),)),
    ]
    assert isinstance(stage.log[4], StageReport)


def test_each_report_has_the_wait_for_masks_of_its_own_step(make_stage) -> None:
    stage = make_stage(0, 1)
    stage.runner.run_one(message(0, row(1, 0, [5, 6], [0])))
    stage.runner.run_one(message(1, row(1, 2, None, [0]), row(2, 0, [9], [1], False)))
    stage.runner.run_one(message(2, row(2, 1, [9], [1], False)))
    reports = [entry for entry in stage.log if isinstance(entry, StageReport)]
    assert [report.grammar_wait_seconds for report in reports] == [0.5, 0.5, 0.0]


def test_rows_that_sample_nothing_still_make_an_output(make_stage) -> None:
    stage = make_stage(2, 3)
    stage.runner.run_one(message(0, row(2, 0, [6], [1], False)))
    assert stage.log[2] == StepOutput(0, ())


def test_a_single_stage_takes_the_tokens_it_sampled(make_stage) -> None:
    stage = make_stage(0, 1)
    stage.runner.run_one(message(0, row(1, 0, [5, 6], [0]), row(2, 0, [9], [1])))
    stage.runner.run_one(message(1, row(2, 1, None, [1]), row(1, 2, None, [0])))
    forwards = [entry[1] for entry in stage.log if isinstance(entry, tuple)]
    assert forwards == [[5, 6, 9], [72, 71]]


def test_a_token_nobody_samples_is_a_bug_that_is_named(make_stage) -> None:
    stage = make_stage(0, 1)
    stage.runner.run_one(message(0, row(1, 0, [5, 6], [0], False)))
    with pytest.raises(InvariantError, match="request 1: no message before this one samples"):
        stage.runner.run_one(message(1, row(1, 2, None, [0])))


def test_requests_come_and_go_with_messages(make_stage) -> None:
    stage = make_stage(1, 2)
    stage.runner.run_one(StageInput(3, 0, new_requests=(new_request(8, [1]),), finished_ids=(2, 4)))
    assert stage.log[:3] == [("remove", 2), ("remove", 4), ("add", 8)]
    assert stage.log[3] == StageReport(3, 1, 0, 0.0, 0.0, 0.0)


def test_loads_of_earlier_messages_have_landed_before_a_forward(
    make_stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(1, 3)
    loaded = fill_with_random_bytes(stage.host.rows, seed=1)
    opened = slow_link(monkeypatch, {1})
    stage.runner.run_one(message(0, prefetch=(copy_job(1, H, D, [0, 3], [4, 5]),)))
    stage.runner.run_one(message(1))  # no forward, nothing to wait for
    assert stage.reports[-1].copies == ()

    def check() -> None:
        assert torch.equal(stage.device.rows[[4, 5]], loaded[[0, 3]])

    stage.during_forward = check
    timer = threading.Timer(0.05, opened.set)
    wait = stage.mover.wait_before_launch

    def wait_for_what_takes_a_while(loads: Sequence[int]) -> None:
        timer.start()
        wait(loads)

    monkeypatch.setattr(stage.mover, "wait_before_launch", wait_for_what_takes_a_while)
    stage.runner.run_one(message(2, row(1, 0, [5], [4])))
    timer.join()
    assert stage.reports[-1].stall_seconds > 0.01
    assert [result.job_id for result in stage.reports[-1].copies] == [1]


def test_a_messages_own_prefetch_does_not_hold_up_its_forward(
    make_stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(1, 3)
    opened = slow_link(monkeypatch, {1})
    prefetch = (copy_job(1, H, D, [0], [4]),)
    stage.runner.run_one(message(0, row(1, 0, [5], [0]), prefetch=prefetch))
    assert stage.reports[-1].copies == ()
    opened.set()


def test_stores_hold_what_the_forward_wrote(make_stage) -> None:
    stage = make_stage(1, 3)

    def write() -> None:
        stage.device.rows[2] = 9

    stage.during_forward = write
    stores = (copy_job(1, D, H, [2], [6]),)
    stage.runner.run_one(message(0, row(1, 0, [5], [2]), stores_after=stores))
    stage.mover.wait([1])
    assert (stage.host.rows[6] == 9).all()


def test_an_append_to_a_slot_being_stored_comes_after_the_store(
    make_stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(1, 3)
    before = fill_with_random_bytes(stage.device.rows, seed=2)
    opened = slow_link(monkeypatch, {1})
    stores = (copy_job(1, D, H, [1, 2], [1, 2]),)
    stage.runner.run_one(message(0, row(1, 0, [5] * 12, [1, 2]), stores_after=stores))
    # The full block 1 is only read from now on: a row that appends elsewhere does not wait.
    stage.runner.run_one(message(1, row(2, 8, [5], [1, 3])))
    assert stage.reports[-1].copies == ()

    def append() -> None:
        assert opened.is_set()
        stage.device.rows[2] = 0

    stage.during_forward = append
    timer = threading.Timer(0.05, opened.set)
    timer.start()
    stage.runner.run_one(message(2, row(1, 12, [5], [1, 2])))
    timer.join()
    assert torch.equal(stage.host.rows[2], before[2])


def test_copies_that_land_while_idle_are_reported_without_a_message(make_stage) -> None:
    stage = make_stage(1, 3)
    stage.inputs = [message(7), None, None, Shutdown(remove_nvme_files=False)]
    stage.mover.submit([copy_job(1, D, H, [0], [0])])
    stage.mover.wait([1])
    receive = stage.receive

    def receive_after_copy(num_tokens: int, sequence: int | None = None) -> object:
        if len(stage.inputs) == 3:
            stage.mover.submit([copy_job(2, H, Tier.NVME, [0], [0])])
            stage.mover.wait([2])
        return receive(num_tokens, sequence)

    stage.receive = receive_after_copy
    shutdown = stage.runner.run_forever(stage)
    assert shutdown == Shutdown(remove_nvme_files=False)
    first, second = stage.reports  # the second None found nothing new: no report
    assert [result.job_id for result in first.copies] == [1]
    assert [result.job_id for result in second.copies] == [2]
    assert (second.sequence, second.num_tokens, second.compute_seconds) == (7, 0, 0.0)


def slow_link(monkeypatch: pytest.MonkeyPatch, job_ids: set[int]) -> threading.Event:
    """Copies ``job_ids`` land only once the event is set."""
    opened = threading.Event()
    copy = MemoryCopier.copy

    def slow(this: MemoryCopier, job: CopyJob, mark: None) -> CopyOutcome:
        if job.job_id in job_ids:
            assert opened.wait(20)
        return copy(this, job, mark)

    monkeypatch.setattr(MemoryCopier, "copy", slow)
    return opened
