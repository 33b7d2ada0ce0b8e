"""What a stop keeps, in which order, and that nothing that fails in it makes it worse.

Engines over simulated pipelines; ``park`` of their executor stands for the end of the stages.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from kit.engine import Harness, random_requests
from kit.fake_run import finish
from kit.parking_life import CONFIG, REQUESTS, Life
from kit.stops import Texts, texts_of
from pipemax_worker.contract.request import FinishReason
from pipemax_worker.errors import KVTierError, OutputError, StageDiedError, StoppedError
from pipemax_worker.runner.nvme_folder import RunFolder
from pipemax_worker.runner.park_index import write_park_index
from pipemax_worker.runner.parking import derive_limits


@pytest.fixture(autouse=True)
def _plain_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = "pipemax_worker.runner.parked_requests._with_adoption"
    monkeypatch.setattr(replace, lambda settings, adopts: settings)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "run"
    path.mkdir()
    for stage in range(2):
        (path / f"stage-{stage}.kv").write_bytes(b"KV")
    return RunFolder(path, is_lasting=True)


@pytest.fixture(scope="module")
def expected() -> Texts:
    return texts_of(Harness(CONFIG, eager=True).run(REQUESTS).values())


def left_of(life: Life) -> list[Any]:
    return [r for r in REQUESTS if (r.key.offset, r.choice) not in life.collector.texts]


def go_on(folder: RunFolder, before: Life, expected: Texts) -> Life:
    life = Life(folder, before)
    life.add(left_of(before))
    life.run()
    assert before.collector.texts | life.collector.texts == expected
    return life


def test_limits_of_the_grace() -> None:
    limits = derive_limits(100.0, 60.0)
    assert (limits.copies_until, limits.stages_until) == (148.0, 157.0)


def test_a_stop_records_parks_and_ends_the_stages(folder: RunFolder, expected: Texts) -> None:
    first = Life(folder)
    first.add()
    first.steps(12)
    assert first.harness.engine.in_flight, "their tokens are not lost"
    first.stop()
    assert folder.park_index.exists()
    assert first.parked_seconds == [57.0]
    assert first.parked.parked_by == ""
    assert "parked" in first.said[-1]
    second = go_on(folder, first, expected)
    assert second.parked.parked_by == "pod-0-boot-1-2", "it has ended: its ranges may be taken"
    statistics = second.harness.engine.statistics
    assert statistics.num_restored_tokens > 0
    assert statistics.num_recomputed_tokens == 0
    assert not folder.park_index.exists(), "used once"


def test_a_folder_that_does_not_last(folder: RunFolder) -> None:
    folder.is_lasting = False
    life = Life(folder)
    life.add()
    life.steps(5)
    life.stop()
    assert not life.parked_seconds
    assert not life.said
    nowhere = Life(None)
    nowhere.stop()
    assert not nowhere.said


def test_nothing_to_park_leaves_nothing(folder: RunFolder) -> None:
    life = Life(folder)
    life.stop()
    assert not folder.park_index.exists()
    assert not list(folder.path.glob("stage-*"))


def test_stages_that_cannot_keep_their_kv(folder: RunFolder, expected: Texts) -> None:
    """A full disk: the outputs are kept all the same, and the KV files make room for them."""
    first = Life(folder)
    first.add()
    first.steps(12)
    first.park_failure = KVTierError("no room for the index")
    first.stop()
    assert "the KV is not kept: no room for the index" in first.said
    assert [path.name for path in folder.path.iterdir()] == ["park.json"]
    second = go_on(folder, first, expected)
    assert second.harness.engine.statistics.num_restored_tokens == 0
    num_generated = second.harness.engine.statistics.num_generated_tokens
    assert num_generated < sum(len(expected[r.key.offset, 0]) + 1 for r in left_of(first))


def test_a_park_index_that_cannot_be_written(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        write_park_index(*_)  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipemax_worker.runner.parking.write_park_index", refuse)
    life = Life(folder)
    life.add()
    life.steps(12)
    life.stop()
    assert "nothing is parked" in life.said[-1]
    assert not folder.park_index.exists()


def test_a_stage_that_dies_while_messages_end(folder: RunFolder, expected: Texts) -> None:
    first = Life(folder)
    first.add()
    first.steps(12)
    first.harness.executor.kill(1, message="stage 1 was killed by signal 9")
    first.park_failure = StageDiedError("stage 1 is gone")
    first.stop()
    assert "parking ends early: stage 1 was killed by signal 9" in first.said
    second = go_on(folder, first, expected)
    assert second.harness.engine.statistics.num_restored_tokens == 0


def test_messages_that_do_not_end_in_time(folder: RunFolder, expected: Texts) -> None:
    first = Life(folder)
    first.add()
    first.steps(12)
    first.stop(grace_seconds=0.0)
    assert "parking ends early: messages in flight have not ended in time" in first.said
    assert first.parked_seconds == [0.0], "the stages are ended in any case"
    go_on(folder, first, expected)


def test_records_that_cannot_be_written(folder: RunFolder) -> None:
    life = Life(folder)
    life.add()
    life.steps(12)
    life.collector.failure = OutputError("the store is down")
    life.stop()
    assert "the last records are not written, and computed again: the store is down" in life.said
    assert folder.park_index.exists()


def test_a_bug_is_no_reason_to_hang(folder: RunFolder) -> None:
    life = Life(folder)
    life.add()
    life.steps(12)
    life.park_failure = ZeroDivisionError("a bug")
    life.stop()
    assert "nothing is parked, and the next run computes it again: a bug" in life.said


def test_choices_that_wait_for_their_siblings_are_not_generated_again(
    folder: RunFolder, expected: Texts
) -> None:
    """They have finished, but their line has no record: all but the last token is kept."""
    first = Life(folder)
    first.add()
    while not first.collector.texts:
        first.steps(1)
    waiting = {request.key.offset: request for request in REQUESTS}
    first.collector.waiting = [
        (waiting[offset], finish(waiting[offset], text, FinishReason.LENGTH))
        for (offset, _), text in first.collector.texts.items()
    ]
    failed = next(r for r in left_of(first))
    first.collector.waiting.append((failed, finish(failed, (1, 2), FinishReason.ERROR)))
    first.stop()
    second = Life(folder, first)
    again = [request for request, _ in first.collector.waiting[:-1]]
    second.add(again)
    second.run()
    assert second.collector.texts == {
        (request.key.offset, 0): expected[request.key.offset, 0] for request in again
    }
    assert second.harness.engine.statistics.num_generated_tokens == len(again)


def test_requests_that_nobody_came_for_stay_parked(folder: RunFolder, expected: Texts) -> None:
    """Stopped again before all lines were read."""
    first = Life(folder)
    first.add()
    first.steps(12)
    first.stop()
    second = Life(folder, first)
    second.add(left_of(first)[::2])
    second.steps(4)
    second.stop()
    assert second.harness.manager.num_pending_copies == 0
    num_restored = second.harness.engine.statistics.num_restored_tokens
    third = Life(folder, second)
    third.add([r for r in left_of(first) if (r.key.offset, 0) not in second.collector.texts])
    third.run()
    assert first.collector.texts | second.collector.texts | third.collector.texts == expected
    statistics = third.harness.engine.statistics
    assert num_restored > 0
    assert statistics.num_restored_tokens > 0
    assert statistics.num_recomputed_tokens == 0


def test_a_stage_that_cannot_adopt(folder: RunFolder, expected: Texts) -> None:
    first = Life(folder)
    first.add()
    first.steps(12)
    first.stop()
    second = Life(folder, first, adoption_fault="stage-1.index: torn")
    assert "parked KV is discarded, and computed again: stage-1.index: torn" in second.said[0]
    second.add(left_of(first))
    second.run()
    assert first.collector.texts | second.collector.texts == expected
    assert second.harness.engine.statistics.num_restored_tokens == 0


def test_lines_that_have_a_record_give_their_blocks_back(folder: RunFolder) -> None:
    first = Life(folder)
    first.add()
    first.steps(12)
    first.stop()
    second = Life(folder, first)
    assert second.harness.manager.num_free_nvme_slots < 100
    for request in REQUESTS:
        second.parked.skip(request.key)
    assert second.harness.manager.num_free_nvme_slots == 100
    second.harness.manager.check_integrity()
    assert all(second.parked.take(request) is None for request in REQUESTS)


def test_another_prompt_at_the_same_place_is_another_request(folder: RunFolder) -> None:
    first = Life(folder)
    first.add()
    first.steps(12)
    first.stop()
    second = Life(folder, first)
    others = random_requests(random.Random(4), 14, max_prompt=20, max_output=14)
    assert all(second.parked.take(request) is None for request in others)
    assert second.harness.manager.num_free_nvme_slots == 100


@pytest.mark.parametrize("is_stopped", [True, False])
def test_what_nothing_was_done_with_is_given_back_at_a_stop(
    folder: RunFolder, is_stopped: bool
) -> None:
    first = Life(folder)
    first.add()
    first.steps(12)
    first.stop()
    second = Life(folder, first)
    error = StoppedError("stopped") if is_stopped else KVTierError("cannot start")
    second.parked.__exit__(type(error), error, None)
    assert folder.park_index.exists() is is_stopped
