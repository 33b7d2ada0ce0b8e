"""A stop is asked for by a signal; when it is heard depends on what the run is doing."""

import os
import signal
import subprocess
import sys

import pytest
from pipemax_worker.errors import StoppedError
from pipemax_worker.runner.signals import EXIT_INTERRUPTED, StopRequest, stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_only_sets_the_request(number: signal.Signals) -> None:
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal_name == number.name
        assert number.name in str(stop.as_error())


def test_a_second_sigterm_changes_nothing() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_name == "SIGINT"


def interrupted_twice(stop: StopRequest, reached: list[str]) -> None:
    with stop.interrupting():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("not interrupted")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # must not break into the clean-up
            reached.append("cleaned up")


def test_what_takes_long_is_interrupted_by_the_first_signal_alone() -> None:
    reached = list[str]()
    with stop_on_signals() as stop:
        with pytest.raises(StoppedError, match="SIGTERM"):
            interrupted_twice(stop, reached)
        os.kill(os.getpid(), signal.SIGTERM)
    assert reached == ["cleaned up"]


def test_a_stop_from_before_is_heard_on_entry() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError), stop.interrupting():
            pytest.fail("entered")


def test_after_the_long_part_a_signal_waits_for_the_loop_again() -> None:
    with stop_on_signals() as stop:
        with stop.interrupting():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_ctrl_c_leaves_at_once() -> None:
    script = (
        "import os, signal\n"
        "from pipemax_worker.runner.signals import stop_on_signals\n"
        "with stop_on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('second', flush=True)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == EXIT_INTERRUPTED
    assert ran.stdout == "first\n"
