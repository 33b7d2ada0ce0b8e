"""The mover: every direction, and the orderings that it keeps by itself."""

import select
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from kit.devices import devices
from kit.kv_tiers import copy_job, fill_with_random_bytes, make_tiers
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.kv.copiers import CopyOutcome, DemoteCopier, MemoryCopier
from pipemax_worker.stage.kv.mover import KVMover

D, H, N = Tier.DEVICE, Tier.HOST, Tier.NVME


class Tiers:
    def __init__(self, folder: Path, device_name: str = "cpu") -> None:
        self.device, self.host, self.nvme = make_tiers(folder, device_name=device_name)
        self.mover = KVMover(self.device, self.host, self.nvme)
        self.rows = {D: self.device.rows, H: self.host.rows}

    def run(self, *jobs: CopyJob) -> None:
        self.mover.submit(jobs)
        self.mover.wait([job.job_id for job in jobs])


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Tiers]:
    tiers = Tiers(tmp_path)
    yield tiers
    tiers.mover.close()
    tiers.nvme.close()


@pytest.fixture(params=devices())
def tiers_of_each_device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tiers]:
    tiers = Tiers(tmp_path, request.param)
    yield tiers
    tiers.mover.close()
    tiers.host.close()
    tiers.nvme.close()


class Gate:
    """Holds the copies of one class of copier until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, copier: type, sources: set[int]) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()
        copy = copier.copy

        def gated(this: object, job: CopyJob, mark: None) -> CopyOutcome:
            if job.job_id in sources:
                self.reached.set()
                assert self.opened.wait(20)
            outcome: CopyOutcome = copy(this, job, mark)
            return outcome

        monkeypatch.setattr(copier, "copy", gated)


def test_a_block_survives_the_way_through_all_tiers(tiers_of_each_device: Tiers) -> None:
    tiers = tiers_of_each_device
    written = fill_with_random_bytes(tiers.device.rows, seed=1)
    tiers.run(copy_job(1, D, H, [0, 1, 4], [7, 2, 3]))
    tiers.run(copy_job(2, H, N, [7, 2, 3], [9, 0, 1]))
    tiers.host.rows.zero_()
    tiers.device.rows.zero_()
    tiers.run(copy_job(3, N, H, [0, 1, 9], [4, 5, 6]))
    tiers.run(copy_job(4, H, D, [4, 5, 6], [1, 4, 0]))
    assert torch.equal(tiers.device.rows[[0, 1, 4]].cpu(), written[[0, 1, 4]])
    assert not tiers.device.rows[[2, 3, 5]].any()


def test_results_name_their_job_and_count_whole_slots(tiers: Tiers) -> None:
    tiers.run(copy_job(5, D, H, [0, 1, 4], [0, 1, 2]), copy_job(6, H, D, [5], [5]))
    results = {result.job_id: result for result in tiers.mover.get_finished()}
    assert {job: result.num_bytes for job, result in results.items()} == {5: 3 * 4096, 6: 4096}
    assert all(result.seconds > 0 and result.failed == () for result in results.values())
    assert tiers.mover.get_finished() == []


def test_a_flipped_bit_fails_its_position_only(tiers: Tiers) -> None:
    written = fill_with_random_bytes(tiers.host.rows, seed=2)
    tiers.run(copy_job(1, H, N, [0, 1, 2, 3], [5, 6, 7, 2]))
    with tiers.nvme.path.open("r+b") as raw:
        raw.seek(6 * 4096 + 100)
        raw.write(bytes([written[1, 100].item() ^ 1]))
    tiers.host.rows.zero_()
    tiers.run(copy_job(2, N, H, [2, 5, 6, 7], [0, 1, 2, 3]))
    failed = {result.job_id: result.failed for result in tiers.mover.get_finished()}
    assert failed == {1: (), 2: (2,)}
    assert torch.equal(tiers.host.rows[[0, 1, 3]], written[[3, 0, 2]])


def test_one_direction_keeps_the_order_of_submission(tiers: Tiers) -> None:
    written = fill_with_random_bytes(tiers.device.rows, seed=3)
    jobs = [copy_job(i, D, H, [i % 6], [0]) for i in range(50)]
    tiers.mover.submit(jobs)
    tiers.mover.wait([49])
    assert [result.job_id for result in tiers.mover.get_finished()] == list(range(50))
    assert torch.equal(tiers.host.rows[0], written[49 % 6])


def test_links_that_meet_in_a_slot_keep_the_order(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load submitted after a store into the same host slot reads what was stored."""
    written = fill_with_random_bytes(tiers.device.rows, seed=4)
    gate = Gate(monkeypatch, MemoryCopier, {1})
    tiers.mover.submit([copy_job(1, D, H, [0], [3]), copy_job(2, H, D, [3], [5])])
    assert gate.reached.wait(20)
    assert tiers.mover.get_finished() == []
    gate.opened.set()
    tiers.mover.wait([2])
    assert torch.equal(tiers.device.rows[5], written[0])


def test_other_links_do_not_wait(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow demote holds up no load."""
    gate = Gate(monkeypatch, DemoteCopier, {1})
    tiers.mover.submit([copy_job(1, H, N, [0], [0])])
    assert gate.reached.wait(20)
    tiers.run(copy_job(2, H, D, [0, 1], [0, 1]))
    assert [result.job_id for result in tiers.mover.get_finished()] == [2]
    gate.opened.set()
    tiers.mover.wait([1])


def test_an_append_waits_for_the_store_of_its_slot(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fill_with_random_bytes(tiers.device.rows, seed=5)
    gate = Gate(monkeypatch, MemoryCopier, {1})
    tiers.mover.submit([copy_job(1, D, H, [2, 3], [2, 3])])
    assert gate.reached.wait(20)
    tiers.mover.wait_for_readers([0, 1])  # not touched by the store: returns at once

    def append() -> None:
        tiers.mover.wait_for_readers([3])
        tiers.device.rows[3] = 0

    appending = threading.Thread(target=append)
    appending.start()
    gate.opened.set()
    appending.join(20)
    assert not appending.is_alive()
    assert torch.equal(tiers.host.rows[3], before[3])


def test_landed_copies_wake_a_poll(tiers: Tiers) -> None:
    poll = select.poll()
    poll.register(tiers.mover.wakeup_fd, select.POLLIN)
    assert poll.poll(0) == []
    tiers.mover.submit([copy_job(1, D, H, [0], [0])])
    assert poll.poll(20_000)
    tiers.mover.wait([1])
    assert len(tiers.mover.get_finished()) == 1


def test_a_link_that_is_not_there_is_a_bug(tiers: Tiers) -> None:
    with pytest.raises(InvariantError, match="no link from DEVICE to NVME"):
        tiers.mover.submit([copy_job(1, D, N, [0], [0])])


def test_a_broken_link_is_raised_where_the_stage_computes(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(this: MemoryCopier, job: CopyJob, mark: None) -> CopyOutcome:
        raise RuntimeError("the link is down")

    monkeypatch.setattr(MemoryCopier, "copy", broken)
    tiers.mover.submit([copy_job(1, D, H, [0], [0])])
    with pytest.raises(RuntimeError, match="the link is down"):
        tiers.mover.wait([1])


def test_close_finishes_what_was_submitted(tiers: Tiers) -> None:
    fill_with_random_bytes(tiers.device.rows, seed=6)
    tiers.mover.submit([copy_job(i, D, H, [i % 6], [i % 8]) for i in range(20)])
    tiers.mover.close()
    assert len(tiers.mover.get_finished()) == 20
    tiers.mover.close()


@pytest.mark.parametrize("seed", range(8))
def test_random_copies_equal_the_same_copies_one_by_one(
    tiers_of_each_device: Tiers, seed: int
) -> None:
    """Whatever is submitted ends as if the links were one, in the order of submission."""
    tiers = tiers_of_each_device
    random = Random(seed)
    nvme = torch.zeros(10, 4096, dtype=torch.uint8)
    model = {
        D: fill_with_random_bytes(tiers.device.rows, seed),
        H: fill_with_random_bytes(tiers.host.rows, seed + 100),
        N: nvme,
    }
    written_nvme: set[int] = set()
    jobs = []
    for job_id in range(120):
        source, target = random.choice([(D, H), (H, D), (H, N), (N, H)])
        readable = sorted(written_nvme) if source == N else range(model[source].shape[0])
        count = min(random.randint(1, 4), len(readable))
        sources = random.sample(list(readable), count)
        targets = random.sample(range(model[target].shape[0]), count)
        written_nvme |= set(targets) if target == N else set()
        model[target][targets] = model[source][sources]
        jobs.append(copy_job(job_id, source, target, sources, targets))
    tiers.mover.submit(jobs)
    tiers.mover.close()
    assert all(result.failed == () for result in tiers.mover.get_finished())
    assert torch.equal(tiers.device.rows.cpu(), model[D])
    assert torch.equal(tiers.host.rows, model[H])
