"""What a test process starts ends with it, also when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
PARENT = """
import sys, time
from kit.control_plane.parent_bound import start_bound
with open(sys.argv[1], "wb") as log:
    print(start_bound(["sleep", "300"], log).pid, flush=True)
time.sleep(300)
"""


def is_alive(process_id: int) -> bool:
    """A zombie that nobody has waited for yet is dead."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except FileNotFoundError:
        return False
    return state.split()[0] != "Z"


def test_a_killed_test_process_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_alive(child):
        assert time.monotonic() < deadline, f"{child} has outlived its parent"
        time.sleep(0.05)
