"""Random orders against stages that hold real contents: no forward ever reads a wrong block.

The fake stages assert on every read; at the end every copy that the table calls valid is compared
on both stages. Hypothesis looks for short failing runs, the seeded runs go deep.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from kit.kv_driver import KVDriver
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.kvcache.eviction import LRUEviction, RotationEviction

SEEDS = st.integers(0, 2**32)
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=7)


class PhysicalMachine(RuleBasedStateMachine):
    driver: KVDriver | None = None
    num_choices = 0

    @initialize(
        device=st.integers(3, 6),
        host=st.sampled_from([0, 3, 4, 6, 8]),
        nvme=st.sampled_from([0, 2, 4]),
        is_lru=st.booleans(),
        prompts=st.lists(TOKENS, min_size=1, max_size=4),
    )
    def start(
        self, device: int, host: int, nvme: int, is_lru: bool, prompts: list[list[int]]
    ) -> None:
        num_slots = {Tier.DEVICE: device, Tier.HOST: host, Tier.NVME: nvme if host else 0}
        self.driver = KVDriver(num_slots, LRUEviction() if is_lru else RotationEviction())
        for tokens in prompts:
            self.admit(tokens)

    def random(self, seed: int) -> Random:
        """Hypothesis likes to repeat small seeds; the number of the choice tells them apart."""
        self.num_choices += 1
        return Random(1000 * seed + self.num_choices)

    @rule(tokens=TOKENS)
    def admit(self, tokens: list[int]) -> None:
        self.driver.admit(tokens)
        self.driver.manager.check_integrity()

    @precondition(lambda self: self.driver.sequences)
    @rule(seed=SEEDS)
    def finish(self, seed: int) -> None:
        self.driver.finish(self.random(seed).choice(self.driver.sequences))
        self.driver.manager.check_integrity()

    @precondition(lambda self: any(s.block_ids for s in self.driver.sequences))
    @rule(seed=SEEDS)
    def invalidate(self, seed: int) -> None:
        block_ids = [b for sequence in self.driver.sequences for b in sequence.block_ids]
        self.driver.invalidate(self.random(seed).choice(block_ids))
        self.driver.manager.check_integrity()

    @precondition(lambda self: self.driver.sequences)
    @rule(seeds=st.lists(SEEDS, min_size=1, max_size=12))
    def turns(self, seeds: list[int]) -> None:
        for seed in seeds:
            self.driver.turn(self.random(seed))
            self.driver.manager.check_integrity()

    def teardown(self) -> None:
        if self.driver is not None:
            self.driver.check_end()


TestPhysical = PhysicalMachine.TestCase
TestPhysical.settings = settings(
    max_examples=100,
    stateful_step_count=20,
    deadline=None,
    phases=set(Phase) - {Phase.explain},  # explaining a failure takes minutes here
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("num_host_slots", [0, 4, 8, 14])
@pytest.mark.parametrize("num_nvme_slots", [0, 3, 8])
@pytest.mark.parametrize("policy", [RotationEviction, LRUEviction])
def test_a_long_run_never_reads_a_wrong_block(
    num_host_slots: int, num_nvme_slots: int, policy: type[RotationEviction | LRUEviction]
) -> None:
    random = Random(7 * num_host_slots + num_nvme_slots)
    num_slots = {Tier.DEVICE: 6, Tier.HOST: num_host_slots, Tier.NVME: num_nvme_slots}
    driver = KVDriver(num_slots, policy())
    for _ in range(600):
        if len(driver.sequences) < 4 and random.random() < 0.5:
            driver.admit([random.randint(0, 1) for _ in range(random.randint(1, 7))])
        for sequence in list(driver.sequences):
            if random.random() < (0.3 if sequence.num_computed > 7 else 0.03):
                driver.finish(sequence)
        driver.turn(random)
        driver.manager.check_integrity()
    driver.check_end()
