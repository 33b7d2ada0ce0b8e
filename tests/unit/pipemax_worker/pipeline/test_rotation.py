"""KV that leaves the device each turn, through all three tiers, while the tokens stay right.

Four micro-batches share two areas of the device tier: message t runs on area t % 2 while the other
is filled for t + 1. Nothing waits for reports, so this rests on the stages' own ordering alone.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.devices import devices
from kit.fake_model import PRIME, expected_tokens
from kit.kv_tiers import copy_job
from kit.pipeline_driver import (
    BLOCK_TOKENS,
    geometry_of,
    make_configs,
    make_settings,
    new_request,
    run_messages,
    sampled_tokens,
    schedule,
)
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import ScheduledRequest, StageInput, StageReport
from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.pipeline.executor import PipelineExecutor

NUM_GROUPS = 4
NUM_TURNS = 10
BLOCKS = 5
SLOW = frozenset({0, 2})
"""Groups that go to NVMe and back between two of their turns."""


class Rotation:
    """Writes the messages. Each group has host and NVMe slots of its own, device slots by turn."""

    def __init__(self, prompts: list[list[int]]) -> None:
        self.prompts = prompts
        self.num_jobs = 0

    def messages(self) -> list[StageInput]:
        return [self.message(sequence) for sequence in range(NUM_GROUPS * NUM_TURNS)]

    def message(self, sequence: int) -> StageInput:
        group, turn = sequence % NUM_GROUPS, sequence // NUM_GROUPS
        new = (new_request(group, self.prompts[group]),) if turn == 0 else ()
        return StageInput(
            sequence=sequence,
            micro_batch_id=group,
            scheduled=(self.row(group, turn, area(sequence)),),
            new_requests=new,
            stores_after=(self.job(Tier.DEVICE, Tier.HOST, area(sequence), host(group)),),
            prefetch=self.prefetch(sequence + 1),
            background=self.background(sequence),
        )

    def row(self, group: int, turn: int, slots: list[int]) -> ScheduledRequest:
        prompt = self.prompts[group]
        if turn == 0:
            return schedule(group, 0, prompt, slots)
        return schedule(group, len(prompt) + turn - 1, None, slots)

    def prefetch(self, sequence: int) -> tuple[CopyJob, ...]:
        if sequence < NUM_GROUPS:
            return ()  # the first turn computes its KV
        return (self.job(Tier.HOST, Tier.DEVICE, host(sequence % NUM_GROUPS), area(sequence)),)

    def background(self, sequence: int) -> tuple[CopyJob, ...]:
        """Demote what message t-1 stored; promote what is loaded by message t+1."""
        jobs = []
        demoted, promoted = (sequence - 1) % NUM_GROUPS, (sequence + 2) % NUM_GROUPS
        if sequence >= 1 and demoted in SLOW:
            jobs.append(self.job(Tier.HOST, Tier.NVME, host(demoted), nvme(demoted)))
        if sequence + 2 >= NUM_GROUPS and promoted in SLOW:
            jobs.append(self.job(Tier.NVME, Tier.HOST, nvme(promoted), host(promoted)))
        return tuple(jobs)

    def job(self, source: Tier, target: Tier, sources: list[int], targets: list[int]) -> CopyJob:
        self.num_jobs += 1
        return copy_job(self.num_jobs, source, target, sources, targets)


def area(sequence: int) -> list[int]:
    first = sequence % 2 * BLOCKS
    return list(range(first, first + BLOCKS))


def host(group: int) -> list[int]:
    """Scattered, so that no copy is one run."""
    return [block * NUM_GROUPS + group for block in range(BLOCKS)]


def nvme(group: int) -> list[int]:
    return [40 - group * BLOCKS - block for block in range(BLOCKS)]


@pytest.mark.parametrize("device", devices(num_gpus=2))
@pytest.mark.parametrize("num_stages", [1, 2])
def test_tokens_stay_right_while_kv_rotates_through_all_tiers(
    tmp_path: Path, num_stages: int, device: str, kill_at_end: Callable[[PipelineExecutor], None]
) -> None:
    generator = random.Random(7)
    longest = BLOCKS * BLOCK_TOKENS - NUM_TURNS
    prompts = [
        [generator.randrange(PRIME) for _ in range(longest - group)] for group in range(NUM_GROUPS)
    ]
    configs = make_configs(make_settings(num_stages, folder=tmp_path, device=device))
    geometry = geometry_of(configs)
    executor = PipelineExecutor(configs, entry_point="kit.fake_stage:main")
    kill_at_end(executor)
    executor.start()
    rotation = Rotation(prompts)
    events = run_messages(executor, rotation.messages())
    texts = sampled_tokens(events)
    for group, prompt in enumerate(prompts):
        assert texts[group] == expected_tokens(prompt, NUM_TURNS, num_stages)

    results = collect_results(executor, events, rotation.num_jobs * num_stages)
    assert all(not result.failed for _, result in results)
    for stage in range(num_stages):
        of_stage = {result.job_id: result.num_bytes for s, result in results if s == stage}
        assert of_stage.keys() == set(range(1, rotation.num_jobs + 1))
        assert set(of_stage.values()) == {BLOCKS * geometry.slot_bytes(stage)}


def collect_results(executor: PipelineExecutor, events: list, num_results: int) -> list:
    """Copies of the last messages are reported when they land, with the stages idle."""

    def results() -> list:
        reports = [event for event in events if isinstance(event, StageReport)]
        return [(report.stage, result) for report in reports for result in report.copies]

    while len(results()) < num_results:
        arrived = executor.collect(60.0)
        assert arrived, "copies have not been reported"
        assert all(isinstance(e, StageReport) and e.num_tokens == 0 for e in arrived)
        events += arrived
    return results()


@pytest.fixture
def kill_at_end():
    executors: list[PipelineExecutor] = []
    yield executors.append
    for executor in executors:
        executor.drain()
