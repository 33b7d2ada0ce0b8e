"""One process at a time; the others say for whom they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pipemax_worker.errors import ModelDownloadError, StoppedError
from pipemax_worker.model_store.lock import locked
from pipemax_worker.model_store.watch import Watch

HOLDER = """
import sys
from pathlib import Path
from pipemax_worker.model_store.lock import locked
from pipemax_worker.model_store.watch import Watch
with locked(Path(sys.argv[1]), "org/name", Watch()):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_who_waits_says_for_whom_and_gets_it_when_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    holder = Holder(path)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        holder.kill()

    with locked(path, "org/name", Watch(say=say)):
        assert f"process {os.getpid()}" in path.read_text()
    [line] = said
    assert line.startswith(f"waiting for process {holder.process.pid} on ")
    assert line.endswith("which fetches org/name")
    assert path.read_text() == ""


def test_waiting_ends_when_asked(tmp_path: Path) -> None:
    holder, asked = Holder(tmp_path / "lock"), []

    def check_stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise StoppedError("stopped")

    try:
        with pytest.raises(StoppedError), locked(tmp_path / "lock", "m", Watch(check_stop)):
            raise AssertionError("held by two")
    finally:
        holder.kill()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ModelDownloadError, match=r"spec\.model\.cacheDir"),
        locked(tmp_path / "file" / "lock", "m", Watch()),
    ):
        raise AssertionError("held")
