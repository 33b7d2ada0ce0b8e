"""The CPU's clock; the GPU's is tested where there is one."""

import pytest
from pipemax_worker.stage import step_timer
from pipemax_worker.stage.step_timer import HostTimer, StepTimes


def test_each_wait_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 13.0, 17.0])
    monkeypatch.setattr(step_timer.time, "perf_counter", lambda: next(times))
    timer = HostTimer()
    timer.copies_wanted()
    timer.copies_landed()
    timer.inputs_known()
    timer.received()
    timer.computed()
    assert timer.is_done
    assert timer.finish() == StepTimes(compute_seconds=4.0, stall_seconds=1.0, wait_seconds=2.0)
