"""`pipemax run` as a process of its own, with all processes that it has started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path
from typing import IO, Any

from kit.held_run import HOLD_VARIABLE
from kit.jobs import JobFolder

MARK = "PIPEMAX_TEST_MARK"
PATIENCE_SECONDS = 240.0
TESTS = Path(__file__).parents[1]

_PROGRAM = """\
import sys
{prelude}
sys.path.append({tests!r})
from kit.held_run import run
sys.exit(run(sys.argv[1:]))
"""


class RunningJob:
    """A run with its HTTP port; ends with the block. Its processes carry a mark of their own."""

    def __init__(
        self, job: JobFolder, *arguments: str, prelude: str = "", hold: str = "", at: int = 0
    ) -> None:
        """``prelude``: Python that the run begins with. ``hold`` and ``at``: where it waits for the
        test, see ``held_run``."""
        self.mark = uuid.uuid4().hex
        self._hold_file = job.folder / f"hold-{self.mark}"
        if hold:
            self.hold(hold, at)
        environment = {
            **os.environ,
            **{MARK: self.mark, "OMP_NUM_THREADS": "1", HOLD_VARIABLE: str(self._hold_file)},
        }
        program = ["-m", "pipemax_worker.cli.main"]
        if hold or prelude:
            program = ["-c", _PROGRAM.format(prelude=prelude, tests=str(TESTS))]
        command = [sys.executable, *program, "run", str(job.job_file)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.said: list[str] = []
        self._printed: list[str] = []
        self._url = ""
        # By threads of their own: lines that a read has brought along lie in its buffer, where
        # ``communicate`` does not look.
        self._readers = [
            threading.Thread(target=_read_lines, args=pair)
            for pair in ((self.process.stderr, self.said), (self.process.stdout, self._printed))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> RunningJob:
        return self

    def hold(self, point: str, at: int = 0) -> None:
        """Wait there, and no longer where it waits now."""
        partial = self._hold_file.with_suffix(".partial")
        partial.write_text(json.dumps({point: at}), encoding="utf-8")
        partial.rename(self._hold_file)

    def release(self) -> None:
        """Go on, and wait nowhere."""
        self._hold_file.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        for process_id in self.process_ids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        self.process.wait()
        self._join_readers()
        self.release()

    @property
    def url(self) -> str:
        """Without the page; waits until the run has said it."""
        while not self._url:
            has_ended = not self._readers[0].is_alive()
            line = next((line for line in self.said if line.startswith("metrics: ")), "")
            if line:
                self._url = line.split()[1].removesuffix("/metrics,")
            elif has_ended:
                raise AssertionError(f"the run has ended: {self.said}")
            else:
                time.sleep(0.005)
        return self._url

    def get(self, page: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{page}", timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def progress(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("progress"))
        return found

    def wait_for_requests(self, number: int) -> dict[str, Any]:
        """Until so many have a record. A run that is to go on by then waits there itself."""
        return self._wait_for("requests", "done", number)

    def wait_for_tokens(self, number: int) -> dict[str, Any]:
        """Until it has generated so many itself."""
        return self._wait_for("tokens", "generated", number)

    def _wait_for(self, group: str, name: str, number: int) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            progress = self.progress()
            if progress[group][name] >= number:
                assert self.process.poll() is None
                return progress
            time.sleep(0.02)
        raise AssertionError(f"not {number} {group} {name} after {PATIENCE_SECONDS} s")

    def end(self) -> int:
        """Wait for the end; the exit code. ``said`` holds all of stderr then, ``printed`` all of
        stdout."""
        exit_code = self.process.wait(timeout=PATIENCE_SECONDS)
        self._join_readers()
        return exit_code

    @property
    def printed(self) -> str:
        """All of stdout so far."""
        return "".join(self._printed)

    def _join_readers(self) -> None:
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
            assert not reader.is_alive(), "a process of the run holds its output open"

    def process_ids(self) -> list[int]:
        """Of all processes of the run that live, zombies aside."""
        mark = f"{MARK}={self.mark}".encode()
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and mark in _read(folder / "environ").split(b"\0")
        ]

    def stage_ids(self) -> list[int]:
        """Of the stages: grandchildren of the driver, forked by its fork server."""
        children = {
            process_id for process_id in self.process_ids() if _parent(process_id) == self.driver_id
        }
        return [one for one in self.process_ids() if _parent(one) in children]

    @property
    def driver_id(self) -> int:
        return self.process.pid

    def wait_until_gone(self) -> None:
        """Until no process of the run lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := self.process_ids():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.02)


def _read_lines(stream: IO[str], lines: list[str]) -> None:
    """To its end."""
    with stream:
        for line in stream:
            lines.append(line)


def _read(path: Path) -> bytes:
    """Empty for a process that is gone, or is another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parent(process_id: int) -> int:
    status = _read(Path("/proc") / str(process_id) / "stat").rpartition(b")")[2].split()
    return int(status[1]) if status else 0
