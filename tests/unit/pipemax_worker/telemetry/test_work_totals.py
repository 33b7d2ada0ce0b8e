"""What is done, and how many requests there will be."""

import pytest
from pipemax_worker.telemetry.work_totals import WorkTotals


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        (WorkTotals(), None),  # nothing is read: nobody knows
        (WorkTotals(num_read=10, bytes_read=1000), 10),  # all is read: exact, though none is done
        (WorkTotals(num_done=1, bytes_done=20, num_read=12, bytes_read=250), 48),
        (WorkTotals(num_done=5), 5),  # a compressed file, not at its end
        (WorkTotals(num_done=30, num_read=10, bytes_read=500), 30),
        (WorkTotals(num_read=1, bytes_read=300), 4),  # 3.33 lines: the last one is begun
    ],
)
def test_the_whole_is_judged_by_what_was_read(totals: WorkTotals, expected: int | None) -> None:
    assert totals.estimate_num_requests(1000) == expected


def test_totals_of_different_ranges_add_up() -> None:
    one, other = WorkTotals(1, 2, 3, 4, 5, 6, 7), WorkTotals(10, 20, 30, 40, 50, 60, 70)
    assert one + other == WorkTotals(11, 22, 33, 44, 55, 66, 77)
    assert list((one + other).as_json().values()) == [11, 22, 33, 44, 55, 66, 77]
