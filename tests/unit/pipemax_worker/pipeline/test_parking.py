"""Pipelines of real processes whose KV files are kept, and taken up by the next."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from kit.fake_model import PRIME, expected_tokens
from kit.kv_tiers import copy_job
from kit.pipeline_driver import (
    BLOCK_TOKENS,
    collect_until_reported,
    make_configs,
    make_settings,
    run_messages,
    sampled_tokens,
    schedule,
    static_messages,
    static_slots,
)
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import NewRequest, StageInput, StageReady
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.errors import KVTierError, StageDiedError
from pipemax_worker.pipeline.executor import PipelineExecutor

PROMPT = [(7 * index) % PRIME for index in range(3 * BLOCK_TOKENS)]
NUM_TOKENS = 5
SLOTS = static_slots(0, len(PROMPT) + NUM_TOKENS)
NVME_SLOTS = [9, 4, 6]
GREEDY = SamplingParams(max_tokens=1000, temperature=0.0)


class Pipelines:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[PipelineExecutor] = []

    def open(
        self, num_stages: int = 2, entry_point: str = "main", adopt: bool = False
    ) -> tuple[PipelineExecutor, tuple[StageReady, ...]]:
        configs = make_configs(make_settings(num_stages, folder=self.folder))
        executor = PipelineExecutor(
            [msgspec.structs.replace(config, adopt_nvme_file=adopt) for config in configs],
            entry_point=f"kit.fake_stage:{entry_point}",
        )
        self.opened.append(executor)
        return executor, executor.start()


@pytest.fixture
def pipelines(tmp_path: Path) -> Iterator[Pipelines]:
    made = Pipelines(tmp_path)
    yield made
    for executor in made.opened:
        executor.drain()


def park_prompt(executor: PipelineExecutor) -> list[int]:
    """Prefill ``PROMPT`` and demote its three blocks; the first token."""
    (prefill,) = static_messages([PROMPT], 1, num_micro_batches=1)
    stored = copy_job(0, Tier.DEVICE, Tier.HOST, prefill_slots(prefill), [0, 1, 2])
    demoted = copy_job(1, Tier.HOST, Tier.NVME, [0, 1, 2], NVME_SLOTS)
    first = msgspec.structs.replace(prefill, stores_after=(stored,))
    events = run_messages(executor, [first, StageInput(1, 0, background=(demoted,))])
    landed = {result.job_id for e in events for result in getattr(e, "copies", ())}
    while 1 not in landed:
        for event in executor.collect(5.0):
            landed.update(result.job_id for result in getattr(event, "copies", ()))
    return sampled_tokens(events)[0]


def prefill_slots(prefill: StageInput) -> list[int]:
    (row,) = prefill.scheduled
    return list(memoryview(row.device_slots).cast("i"))


def go_on(executor: PipelineExecutor, known: list[int]) -> list[int]:
    """Promote and load what is parked, and decode on."""
    promoted = copy_job(0, Tier.NVME, Tier.HOST, NVME_SLOTS, [5, 6, 7])
    loaded = copy_job(1, Tier.HOST, Tier.DEVICE, [5, 6, 7], SLOTS[:3])
    executor.submit(StageInput(0, 0, background=(promoted,)))
    events = collect_until_reported(executor, 0)
    landed = [result for event in events for result in getattr(event, "copies", ())]
    while len(landed) < 2:
        for event in executor.collect(5.0):
            landed += getattr(event, "copies", ())
    assert all(result.failed == () for result in landed)
    request = NewRequest(0, pack_int32(PROMPT), pack_int32(known), GREEDY, seed=0)
    messages = [StageInput(1, 0, prefetch=(loaded,))]
    for index in range(NUM_TOKENS - len(known)):
        row = schedule(0, len(PROMPT) + index, known if index == 0 else None, SLOTS)
        new = (request,) if index == 0 else ()
        messages.append(StageInput(2 + index, 0, (row,), new_requests=new))
    return sampled_tokens(run_messages(executor, messages))[0]


def test_kv_files_outlive_their_pipeline_and_serve_the_next(
    pipelines: Pipelines, tmp_path: Path
) -> None:
    first, _ = pipelines.open()
    known = park_prompt(first)
    first.park(30.0)
    first.drain()
    names = {f"stage-{stage}.{kind}" for stage in range(2) for kind in ("kv", "index")}
    assert {path.name for path in tmp_path.iterdir()} == names

    second, ready = pipelines.open(adopt=True)
    assert [one.adoption_fault for one in ready] == [None, None]
    assert known + go_on(second, known) == expected_tokens(PROMPT, NUM_TOKENS, 2)
    second.drain()
    assert not list(tmp_path.glob("*.kv"))


def test_a_stage_without_its_index_begins_empty_and_says_so(
    pipelines: Pipelines, tmp_path: Path
) -> None:
    first, _ = pipelines.open()
    park_prompt(first)
    first.park(30.0)
    (tmp_path / "stage-1.index").unlink()
    _, ready = pipelines.open(adopt=True)
    assert ready[0].adoption_fault is None
    assert "stage-1.index: No such file" in (ready[1].adoption_fault or "")


def test_a_stage_that_cannot_park_is_named_and_nothing_is_kept(
    pipelines: Pipelines, tmp_path: Path
) -> None:
    executor, _ = pipelines.open(entry_point="main_that_cannot_park")
    with pytest.raises(KVTierError, match=r"stage-\d\.kv cannot be parked: No space left"):
        executor.park(30.0)
    executor.drain()
    assert not list(tmp_path.glob("*.kv"))


def test_a_stage_that_does_not_end_in_time(pipelines: Pipelines, tmp_path: Path) -> None:
    executor, _ = pipelines.open()
    os.kill(executor.process_ids[1], signal.SIGSTOP)
    with pytest.raises(StageDiedError, match=r"stage \d has not ended after 0\.2 s"):
        executor.park(0.2)
    executor.kill()
    executor.drain()
    assert not list(tmp_path.glob("*.kv"))
