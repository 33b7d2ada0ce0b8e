"""Bytes of total and a rate, not too often."""

import pytest
from pipemax_worker.model_store.progress import DownloadMeter, DownloadProgress


class SetClock:
    seconds = 100.0

    def now(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def test_reports_are_bounded_in_rate_and_count_what_was_there(clock: SetClock) -> None:
    shown: list[DownloadProgress] = []
    meter = DownloadMeter("hub", 1000, 5000, clock, shown.append)
    for _ in range(100):
        clock.seconds += 0.01
        meter.add(10)
        meter.report()
    assert 4 <= len(shown) <= 5
    last = shown[-1]
    assert (last.place, last.bytes_total) == ("hub", 5000)
    assert last.bytes_done == 1000 + round(last.elapsed_seconds * 1000)
    assert last.bytes_per_second == pytest.approx(1000)


def test_the_last_report_is_always_shown(clock: SetClock) -> None:
    shown: list[DownloadProgress] = []
    meter = DownloadMeter("hub", 0, 10, clock, shown.append)
    meter.report()
    meter.add(10)
    meter.report()
    assert len(shown) == 1
    meter.report(is_last=True)
    assert [one.bytes_done for one in shown] == [0, 10]


def test_the_rate_is_that_of_the_last_seconds(clock: SetClock) -> None:
    shown: list[DownloadProgress] = []
    meter = DownloadMeter("hub", 0, 10**9, clock, shown.append)
    for _ in range(100):  # a fast minute and a half, then a slow one
        clock.seconds += 1
        meter.add(10_000)
        meter.report()
    for _ in range(60):
        clock.seconds += 1
        meter.add(1)
        meter.report()
    assert shown[-1].bytes_per_second == pytest.approx(1)


def test_bytes_that_were_damaged_do_not_count(clock: SetClock) -> None:
    shown: list[DownloadProgress] = []
    meter = DownloadMeter("hub", 0, 10, clock, shown.append)
    meter.add(10)
    meter.take_back(10)
    meter.report()
    assert shown[-1].bytes_done == 0
