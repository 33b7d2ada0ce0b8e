"""How much is done and how long the rest takes."""

import pytest
from kit.progress import make_snapshot


@pytest.mark.parametrize(
    ("done", "found", "remaining"),
    [
        (250, 0, 90.0),
        (1000, 0, 0.0),
        (9, 0, None),  # less than one percent
        (500, 400, 150.0),  # this run has done a tenth, half is left
        (409, 400, None),
        (1200, 400, 0.0),  # a last line without its end counts one byte too many
    ],
)
def test_time_left_is_judged_by_this_runs_rate(
    done: int, found: int, remaining: float | None
) -> None:
    """30 seconds have passed; the input has 1,000 bytes."""
    snapshot = make_snapshot(input_bytes_done=done, input_bytes_found=found)
    assert snapshot.remaining_seconds == remaining


def test_nothing_to_do_is_all_done() -> None:
    snapshot = make_snapshot(input_bytes_total=0, input_bytes_done=0)
    assert snapshot.fraction_done == 1.0
    assert snapshot.remaining_seconds is None
