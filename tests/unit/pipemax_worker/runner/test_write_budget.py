"""No 24 hours see more bytes written than the job allows, whatever becomes of its workers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from pipemax_worker.errors import KVTierError
from pipemax_worker.kvcache.write_allowance import WriteAllowance
from pipemax_worker.runner.nvme_folder import RunFolder
from pipemax_worker.runner.write_budget import (
    FILE_NAME,
    BlockWrites,
    WriteBudget,
    open_write_budget,
)

HOUR, DAY = 3600.0, 86400.0
LIMIT = 256_000


class WallClock:
    def __init__(self) -> None:
        self.seconds = 1.8e9

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


def counted_bytes(folder: Path) -> int:
    hours: dict[str, int] = json.loads((folder / FILE_NAME).read_bytes())["hours"]
    return sum(hours.values())


def test_so_much_and_no_more(tmp_path: Path, clock: WallClock) -> None:
    budget = WriteBudget(tmp_path, LIMIT, clock)
    assert budget.available_bytes() == LIMIT
    assert budget.take(200_000)
    assert not budget.take(60_000)
    assert budget.available_bytes() == 56_000, "what is refused is not counted"
    assert budget.take(56_000)
    assert not budget.take(1)


def test_it_comes_back_when_a_day_has_passed(tmp_path: Path, clock: WallClock) -> None:
    budget = WriteBudget(tmp_path, LIMIT, clock)
    assert budget.take(LIMIT)
    clock.seconds += DAY - 1
    assert budget.available_bytes() == 0
    clock.seconds += HOUR + 1
    assert budget.take(LIMIT)


def test_a_restart_changes_nothing(tmp_path: Path, clock: WallClock) -> None:
    first = WriteBudget(tmp_path, LIMIT, clock)
    assert first.take(100_500)
    first.close()
    assert WriteBudget(tmp_path, LIMIT, clock).available_bytes() == LIMIT - 100_500


def test_a_worker_that_is_killed_has_counted_before_it_wrote(
    tmp_path: Path, clock: WallClock
) -> None:
    killed = WriteBudget(tmp_path, LIMIT, clock)
    assert killed.take(100)
    left = WriteBudget(tmp_path, LIMIT, clock).available_bytes()
    assert LIMIT - 1000 <= left <= LIMIT - 100, "a portion at most is lost"


def test_two_workers_of_a_node_share_it(tmp_path: Path, clock: WallClock) -> None:
    one, other = (WriteBudget(tmp_path, LIMIT, clock) for _ in range(2))
    assert one.take(200_000)
    assert not other.take(100_000)
    assert other.available_bytes() == 56_000, "it has looked"
    assert other.take(56_000)
    assert not one.take(1000)


def test_what_is_not_written_is_given_back(tmp_path: Path, clock: WallClock) -> None:
    budget = WriteBudget(tmp_path, LIMIT, clock)
    assert budget.take(LIMIT)
    budget.give_back(1000)
    assert budget.take(1000)
    budget.give_back(4000)
    budget.close()
    assert counted_bytes(tmp_path) == LIMIT - 4000


def test_a_clock_that_is_put_back_gives_nothing_away(tmp_path: Path, clock: WallClock) -> None:
    budget = WriteBudget(tmp_path, LIMIT, clock)
    assert budget.take(LIMIT)
    clock.seconds -= 3 * DAY
    assert not WriteBudget(tmp_path, LIMIT, clock).take(1)


@pytest.mark.parametrize("seed", range(5))
def test_no_day_sees_more_wherever_it_starts(tmp_path: Path, clock: WallClock, seed: int) -> None:
    """Also with workers that come, go, or are killed at any time."""
    chance = random.Random(seed)
    budgets = [WriteBudget(tmp_path, LIMIT, clock) for _ in range(2)]
    written: list[tuple[float, int]] = []
    for _ in range(600):
        clock.seconds += chance.choice([1, 60, 1800, 7200])
        number = chance.randrange(2)
        if chance.random() < 0.1:
            if chance.random() < 0.5:
                budgets[number].close()
            budgets[number] = WriteBudget(tmp_path, LIMIT, clock)
        num_bytes = chance.randrange(1, LIMIT // 4)
        if budgets[number].take(num_bytes):
            written.append((clock.seconds, num_bytes))
    for start, _ in written:
        day = sum(num_bytes for at, num_bytes in written if start <= at < start + DAY)
        assert day <= LIMIT
    assert sum(num_bytes for _, num_bytes in written) > 3 * LIMIT


@pytest.mark.parametrize("content", [b"", b"{", b'{"hours": 1}'])
def test_a_file_that_was_torn(tmp_path: Path, clock: WallClock, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert WriteBudget(tmp_path, LIMIT, clock).take(LIMIT)


def test_a_file_that_cannot_be_written_allows_nothing(tmp_path: Path, clock: WallClock) -> None:
    budget = WriteBudget(tmp_path, LIMIT, clock)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).mkdir()
    assert not budget.take(LIMIT)
    budget.close()


def test_in_blocks(tmp_path: Path, clock: WallClock) -> None:
    writes: WriteAllowance = BlockWrites(WriteBudget(tmp_path, LIMIT, clock), 1000)
    assert (writes.num_blocks(10), writes.num_blocks(1000)) == (10, 256)
    assert writes.take(255)
    assert not writes.take(2)
    assert writes.num_blocks(10) == 1
    writes.give_back(3)
    assert writes.num_blocks(10) == 4


class TestOpening:
    def test_without_a_limit_there_is_no_file(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run", is_lasting=True)
        for folder, limit in ((run, None), (None, LIMIT)):
            with open_write_budget(folder, limit) as budget:
                assert budget is None
        assert not list(tmp_path.iterdir())

    def test_it_outlives_the_run_where_the_folder_does(
        self, tmp_path: Path, clock: WallClock
    ) -> None:
        for is_lasting, place in ((True, tmp_path), (False, tmp_path / "run")):
            (tmp_path / "run").mkdir(exist_ok=True)
            with open_write_budget(RunFolder(tmp_path / "run", is_lasting), LIMIT, clock) as budget:
                assert budget is not None
                assert budget.take(1000)
            assert counted_bytes(place) == 1000, "the rest of its portion is given back"

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "none" / "run", is_lasting=True)
        with (
            pytest.raises(KVTierError, match=r"writesPerDay: .*pipemax-writes\.json"),
            open_write_budget(run, LIMIT),
        ):
            pytest.fail("entered")
