"""What the machine says of a death: a GPU that is gone, memory that ran out, or nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from kit.engine import make_config, make_geometry, random_requests
from kit.pipeline_driver import make_settings
from kit.poison import PoisonedEngine
from pipemax_worker.contract.messages import StageDied
from pipemax_worker.errors import (
    GpuLostError,
    KVTierError,
    PipemaxError,
    StageDiedError,
    error_from_reason,
)
from pipemax_worker.runner.death_diagnosis import DeathDiagnosis, make_diagnosis
from pipemax_worker.runner.recovering_engine import RecoveringEngine

UUIDS = ("GPU-a", "GPU-b")
DIED = StageDiedError("stage 1 was killed by signal 9")
WORDS = "GPU is lost. Reboot the system"


class Machine:
    """``lost`` GPUs, and how often the kernel has killed."""

    def __init__(self) -> None:
        self.lost: dict[str, str] = {}
        self.num_kills: int | None = 4
        self.asked: list[tuple[str, ...]] = []

    def find_lost(self, known: Sequence[str]) -> dict[str, str]:
        self.asked.append(tuple(known))
        return {uuid: words for uuid, words in self.lost.items() if uuid in known}

    def diagnosis(self, seen: Sequence[str] = UUIDS) -> DeathDiagnosis:
        return DeathDiagnosis(UUIDS, seen, self.find_lost, lambda: self.num_kills)


def test_a_death_of_which_the_machine_knows_nothing() -> None:
    machine = Machine()
    assert machine.diagnosis().explain(DIED, 1) is DIED
    assert machine.asked == [UUIDS]


def test_a_gpu_that_is_gone() -> None:
    machine = Machine()
    diagnosis = machine.diagnosis()
    machine.lost = {"GPU-b": WORDS}
    error = diagnosis.explain(DIED, 0)
    assert isinstance(error, GpuLostError)
    assert error.exit_code == 72
    assert "GPU GPU-b (stage 1) is lost: GPU is lost. Reboot the system" in str(error)
    assert "killed by signal 9" in str(error), "how it showed"


def test_the_stages_own_words_get_the_gpus_name() -> None:
    machine = Machine()
    told = error_from_reason("GpuLost", "stage 1: CUDA error: uncorrectable ECC error")
    error = machine.diagnosis().explain(told, 1)
    assert isinstance(error, GpuLostError)
    assert "GPU GPU-b (stage 1) is lost: stage 1: CUDA error: uncorrectable ECC" in str(error)
    assert machine.asked == []
    unknown = machine.diagnosis().explain(told)
    assert str(unknown).startswith("a GPU is lost: ")


def test_a_gpu_that_nvidia_smi_never_listed_is_not_missed() -> None:
    machine = Machine()
    diagnosis = machine.diagnosis(seen=("GPU-a",))
    machine.lost = {"GPU-b": WORDS}
    assert diagnosis.explain(DIED) is DIED
    assert machine.asked == [("GPU-a",)]


def test_a_kill_for_lack_of_memory_is_told_once() -> None:
    machine = Machine()
    diagnosis = machine.diagnosis()
    machine.num_kills = 5
    error = diagnosis.explain(DIED, 1)
    assert isinstance(error, StageDiedError)
    assert "OOMKilled" in str(error)
    assert "lower kvCache.host" in str(error)
    assert diagnosis.explain(DIED, 1) is DIED, "the next death has no such reason"
    machine.num_kills = None
    assert diagnosis.explain(DIED, 1) is DIED


def test_another_error_is_no_kill() -> None:
    machine = Machine()
    diagnosis = machine.diagnosis()
    machine.num_kills = 5
    error = KVTierError("the disk is full")
    assert diagnosis.explain(error) is error


def test_a_cpu_has_no_gpus_to_ask_about(tmp_path: Path) -> None:
    assert make_diagnosis(make_settings(1)).explain(DIED, 0) is DIED


def test_a_lost_gpu_ends_the_run_and_condemns_nobody() -> None:
    config = make_config(make_geometry(num_stages=2, device=4096), max_batched_tokens=2048)
    poisoned = PoisonedEngine(config, lambda text: len(text) > 12)
    deaths: list[StageDied] = []

    def explain(error: PipemaxError, death: StageDied) -> PipemaxError:
        deaths.append(death)
        return GpuLostError(f"GPU-b is lost: {error}")

    poisoned.engine = RecoveringEngine(
        poisoned.pipeline, lambda *_: None, poisoned.said.append, explain
    )
    requests = random_requests(random.Random(3), 8, max_prompt=12, max_output=10)
    with pytest.raises(GpuLostError, match=r"GPU-b is lost: stage \d fell over"):
        poisoned.run(requests)
    assert len(deaths) == 1
    assert poisoned.num_opened == 1, "nothing is started again on this machine"
    assert not poisoned.pipeline.is_open
    assert len(poisoned.engine.unfinished_requests()) > 0, "they go on elsewhere"
    with pytest.raises(GpuLostError):
        poisoned.engine.step()
