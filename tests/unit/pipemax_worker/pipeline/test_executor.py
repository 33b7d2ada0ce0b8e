"""Whole pipelines: real processes, sockets and tiers, with a model that shows any wrong KV."""

import functools
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.fake_model import PRIME, expected_tokens
from kit.pipeline_driver import (
    collect_until_reported,
    make_configs,
    make_settings,
    run_messages,
    sampled_tokens,
    static_messages,
)
from kit.process_life import is_running
from pipemax_worker.contract.messages import (
    ExecutorEvent,
    StageDied,
    StageInput,
    StageReady,
    StageReport,
    StepOutput,
)
from pipemax_worker.errors import InvariantError, KVTierError, ModelNotFoundError, StageDiedError
from pipemax_worker.pipeline import executor as executor_module
from pipemax_worker.pipeline.executor import PipelineExecutor

StartPipeline = Callable[..., PipelineExecutor]


@pytest.fixture
def socket_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where pipelines make their socket folders, to be looked into."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="p-") as folder:
        make = functools.partial(tempfile.mkdtemp, dir=folder)
        monkeypatch.setattr(executor_module, "make_socket_folder", lambda: Path(make()))
        yield Path(folder)


@pytest.fixture
def start(tmp_path: Path, socket_root: Path) -> Iterator[StartPipeline]:
    executors: list[PipelineExecutor] = []

    def start_pipeline(
        num_stages: int, entry_point: str = "main", *, nvme: bool = False, **options: float
    ) -> PipelineExecutor:
        settings = make_settings(num_stages, folder=tmp_path if nvme else None)
        executor = PipelineExecutor(
            make_configs(settings), entry_point=f"kit.fake_stage:{entry_point}", **options
        )
        executors.append(executor)
        executor.start()
        return executor

    yield start_pipeline
    for executor in executors:
        executor.drain()


def random_prompts(count: int) -> list[list[int]]:
    generator = random.Random(count)
    return [
        [generator.randrange(PRIME) for _ in range(generator.randint(1, 11))] for _ in range(count)
    ]


def collect_death(executor: PipelineExecutor) -> tuple[StageDied, list[ExecutorEvent]]:
    events: list[ExecutorEvent] = []
    for _ in range(100):
        events += executor.collect(10.0)
        for event in events:
            if isinstance(event, StageDied):
                return event, events
    raise AssertionError("no stage died")


@pytest.mark.parametrize("num_stages", [1, 2, 4])
def test_tokens_are_right_with_everything_submitted_at_once(
    start: StartPipeline, num_stages: int
) -> None:
    """More messages in flight than any queue's depth: the token ring must not lock up."""
    prompts = random_prompts(6)
    events = run_messages(start(num_stages), static_messages(prompts, 12, num_micro_batches=3))
    texts = sampled_tokens(events)
    for request_id, prompt in enumerate(prompts):
        assert texts[request_id] == expected_tokens(prompt, 12, num_stages)


def test_every_stage_reports_every_message_in_order(start: StartPipeline) -> None:
    executor = start(2)
    messages = static_messages(random_prompts(4), 5, num_micro_batches=2)
    events = run_messages(executor, messages)
    for stage in range(2):
        reports = [e for e in events if isinstance(e, StageReport) and e.stage == stage]
        assert [report.sequence for report in reports] == list(range(len(messages)))
        assert [report.num_tokens for report in reports] == [
            sum(row.num_new_tokens for row in message.scheduled) for message in messages
        ]
        assert all(report.compute_seconds > 0 for report in reports)
    assert sum(e.wait_seconds for e in events if isinstance(e, StageReport)) > 0


def test_the_output_comes_before_the_last_stages_report(start: StartPipeline) -> None:
    events = run_messages(start(2), static_messages(random_prompts(2), 6, num_micro_batches=1))
    order = [
        (event.sequence, type(event).__name__)
        for event in events
        if isinstance(event, StepOutput) or (isinstance(event, StageReport) and event.stage == 1)
    ]
    assert order == [
        (sequence, name) for sequence in range(6) for name in ("StepOutput", "StageReport")
    ]


def test_an_empty_message_is_reported_too(start: StartPipeline) -> None:
    executor = start(2)
    executor.submit(StageInput(sequence=0, micro_batch_id=0))
    events = collect_until_reported(executor, 0)
    assert [type(event) for event in events] == [StageReport, StageReport]
    assert {event.num_tokens for event in events if isinstance(event, StageReport)} == {0}


def test_start_reports_progress_and_what_was_loaded(tmp_path: Path, socket_root: Path) -> None:
    settings = make_settings(2, folder=tmp_path)
    executor = PipelineExecutor(make_configs(settings), entry_point="kit.fake_stage:main")
    seen: list[StageReady] = []
    try:
        ready = executor.start(seen.append)
        assert sorted(ready, key=lambda r: r.stage) == sorted(seen, key=lambda r: r.stage)
        assert [r.stage for r in ready] == [0, 1]
        assert {r.weight_bytes for r in ready} == {1234}
        assert sorted(p.name for p in tmp_path.iterdir()) == ["stage-0.kv", "stage-1.kv"]
    finally:
        executor.drain()


def test_drain_leaves_no_process_and_no_file(
    start: StartPipeline, tmp_path: Path, socket_root: Path
) -> None:
    executor = start(2, nvme=True)
    run_messages(executor, static_messages(random_prompts(2), 2, num_micro_batches=1))
    process_ids = executor.process_ids
    assert len(list(socket_root.iterdir())) == 1
    executor.drain()
    assert not any(map(is_running, process_ids))
    assert list(tmp_path.iterdir()) == []
    assert list(socket_root.iterdir()) == []
    executor.drain()
    with pytest.raises(InvariantError, match="not running"):
        executor.submit(StageInput(sequence=9, micro_batch_id=0))


def test_drain_kills_what_does_not_end(start: StartPipeline) -> None:
    executor = start(2, "main_slow", drain_timeout_seconds=0.05)
    for message in static_messages(random_prompts(2), 40, num_micro_batches=1):
        executor.submit(message)
    process_ids = executor.process_ids
    executor.drain()
    assert not any(map(is_running, process_ids))


def test_kill_ends_stages_that_hang_without_waiting_for_them(
    start: StartPipeline, tmp_path: Path
) -> None:
    executor = start(2, nvme=True, drain_timeout_seconds=10_000.0)
    process_ids = executor.process_ids
    os.kill(process_ids[1], signal.SIGSTOP)
    executor.kill()
    executor.drain()
    assert not any(map(is_running, process_ids))
    assert list(tmp_path.iterdir()) == []


def test_a_start_lets_the_driver_do_something_while_it_waits(tmp_path: Path) -> None:
    settings = make_settings(1)
    executor = PipelineExecutor(make_configs(settings), entry_point="kit.fake_stage:main")
    turns: list[None] = []
    try:
        executor.start(on_wait=lambda: turns.append(None))
    finally:
        executor.drain()
    assert turns


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_stages_ignore_the_signals_that_stop_a_job(
    start: StartPipeline, signal_number: int
) -> None:
    executor = start(2)
    for process_id in executor.process_ids:
        os.kill(process_id, signal_number)
    prompts = random_prompts(2)
    texts = sampled_tokens(run_messages(executor, static_messages(prompts, 3, 1)))
    assert texts[1] == expected_tokens(prompts[1], 3, 2)


def test_a_stage_that_dies_is_reported_with_its_signal(start: StartPipeline) -> None:
    executor = start(2, "main_dying")
    messages = static_messages(random_prompts(2), 6, num_micro_batches=1)
    # What a process has sent and not yet handed over dies with it: let it all arrive before.
    events = run_messages(executor, messages[:2])
    for message in messages[2:]:
        executor.submit(message)
    died, later_events = collect_death(executor)
    events += later_events
    assert (died.stage, died.exit_code, died.reason) == (1, -signal.SIGUSR1, "StageDied")
    assert died.last_sequence == 1
    assert "stage 1 was killed by signal 10 after message 1" in died.message
    assert [event.sequence for event in events if isinstance(event, StepOutput)] == [0, 1]


def test_a_killed_stage_wakes_a_waiting_collect(start: StartPipeline) -> None:
    executor = start(2)
    os.kill(executor.process_ids[0], signal.SIGKILL)
    (died,) = executor.collect(60.0)
    assert isinstance(died, StageDied)
    assert (died.stage, died.exit_code) == (0, -signal.SIGKILL)
    assert "ran out of memory" in died.message
    assert executor.collect(0.0) == []


def test_last_words_name_the_error(start: StartPipeline) -> None:
    executor = start(2, "main_failing")
    for message in static_messages(random_prompts(2), 6, num_micro_batches=1):
        executor.submit(message)
    died, _ = collect_death(executor)
    assert (died.stage, died.exit_code, died.reason) == (0, 69, "StageDied")
    assert died.message == "stage 0: ZeroDivisionError: the third forward"


def test_a_model_that_cannot_be_loaded_is_its_own_error(
    start: StartPipeline, socket_root: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="model-00002-of-00002"):
        start(2, "main_without_shard")
    assert list(socket_root.iterdir()) == []


def test_last_words_that_are_late(start: StartPipeline) -> None:
    with pytest.raises(ModelNotFoundError, match="model-00002-of-00002"):
        start(1, "main_with_late_words")


def test_a_stage_that_never_gets_ready(start: StartPipeline) -> None:
    with pytest.raises(StageDiedError, match="stage 0 exited with 3 after message -1"):
        start(1, "main_that_exits")


def test_a_start_that_takes_too_long_names_the_stages(start: StartPipeline) -> None:
    with pytest.raises(StageDiedError, match=r"stages \[0\] were not ready after 0 s"):
        start(1, start_timeout_seconds=0.0)


def test_an_nvme_tier_that_cannot_be_had(tmp_path: Path, socket_root: Path) -> None:
    settings = make_settings(1, folder=tmp_path / "missing")
    executor = PipelineExecutor(make_configs(settings), entry_point="kit.fake_stage:main")
    with pytest.raises(KVTierError, match=r"missing/stage-0\.kv of \d+ bytes"):
        executor.start()
