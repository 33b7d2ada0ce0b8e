"""What a test process starts ends with it, also when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from kit.process_life import is_running, wait_until_gone

TESTS = Path(__file__).parents[1]
PARENT = """
import sys, time
from kit.control_plane.parent_bound import start_bound
with open(sys.argv[1], "wb") as log:
    print(start_bound(["sleep", "300"], log).pid, flush=True)
time.sleep(300)
"""


def test_a_killed_test_process_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
    wait_until_gone([child])
