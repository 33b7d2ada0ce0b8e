"""Cutting copy jobs into runs of consecutive slots."""

from hypothesis import given
from hypothesis import strategies as st
from kit.kv_tiers import copy_job
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.stage.kv.runs import SlotRun, split_into_runs


def runs_of(
    sources: list[int], targets: list[int], max_length: int = 100, boundary: int | None = None
) -> list[SlotRun]:
    job = copy_job(0, Tier.HOST, Tier.DEVICE, sources, targets)
    return split_into_runs(job, max_length, boundary)


def test_consecutive_slots_are_one_run() -> None:
    assert runs_of([4, 5, 6], [0, 1, 2]) == [SlotRun(0, 4, 0, 3)]


def test_a_jump_on_either_side_starts_a_run() -> None:
    assert runs_of([1, 2, 3, 9], [5, 6, 8, 9]) == [
        SlotRun(0, 1, 5, 2),
        SlotRun(2, 3, 8, 1),
        SlotRun(3, 9, 9, 1),
    ]


def test_descending_slots_are_single_runs() -> None:
    assert [run.length for run in runs_of([3, 2, 1], [3, 2, 1])] == [1, 1, 1]


def test_long_runs_are_cut() -> None:
    assert runs_of(list(range(5)), list(range(10, 15)), max_length=2) == [
        SlotRun(0, 0, 10, 2),
        SlotRun(2, 2, 12, 2),
        SlotRun(4, 4, 14, 1),
    ]


def test_no_slots_no_runs() -> None:
    assert runs_of([], []) == []


slots = st.lists(st.integers(0, 30), max_size=40)


@given(slots, slots, st.integers(1, 5), st.one_of(st.none(), st.integers(1, 7)))
def test_runs_cover_the_job_exactly(
    sources: list[int], targets: list[int], max_length: int, boundary: int | None
) -> None:
    length = min(len(sources), len(targets))
    sources, targets = sources[:length], targets[:length]
    runs = runs_of(sources, targets, max_length, boundary)
    covered = [
        (run.position + i, run.source + i, run.target + i)
        for run in runs
        for i in range(run.length)
    ]
    assert covered == list(zip(range(length), sources, targets, strict=True))
    assert all(1 <= run.length <= max_length for run in runs)
    if boundary is not None:
        for run in runs:
            for start in (run.source, run.target):
                assert start // boundary == (start + run.length - 1) // boundary
