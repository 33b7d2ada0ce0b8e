"""`pipemax run` as a process that can be watched and killed at any moment of its life."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "PIPEMAX_KILL_TEST_MARK"
ADDRESS = re.compile(r"^metrics: (\S+)/metrics,", re.MULTILINE)
END_SECONDS = 30.0


class KillableRun:
    """One process of ``pipemax run`` with the stages that it starts. ``log`` gets its stderr."""

    def __init__(self, job_file: Path, log: Path) -> None:
        self._log = log
        self._mark = uuid.uuid4().hex
        self._address: str | None = None
        path = os.pathsep.join([str(ROOT / "worker"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", MARK: self._mark}
        command = [sys.executable, "-m", "pipemax_worker.cli.main", "run", str(job_file)]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [*command, "--port", "0"], stdout=stream, stderr=stream, env=environment
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def count_done(self) -> int | None:
        """Requests with a record, of earlier runs too; None while it says nothing of them yet."""
        if self._address is None:
            found = ADDRESS.search(self.said)
            self._address = found and found[1]
        if self._address is None:
            return None
        try:
            with urllib.request.urlopen(f"{self._address}/progress", timeout=5) as answer:
                progress = json.load(answer)
        except (OSError, ValueError):
            return None
        return None if progress["phase"] == "Starting" else int(progress["requests"]["done"])

    def stage_ids(self) -> list[int]:
        """Process ids of the stages: grandchildren of the driver, forked by its fork server."""
        alive = self._process_ids()
        servers = {one for one in alive if _parent(one) == self._process.pid}
        return [one for one in alive if _parent(one) in servers]

    def kill(self) -> None:
        """SIGKILL for the driver. Raises RuntimeError if a process of the run outlives it long."""
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + END_SECONDS
        while left := self._process_ids():
            if time.monotonic() > deadline:
                for process_id in left:
                    _kill(process_id)
                raise RuntimeError(f"processes {left} outlived their driver by {END_SECONDS} s")
            time.sleep(0.01)

    def kill_stage(self, process_id: int) -> None:
        _kill(process_id)

    def _process_ids(self) -> list[int]:
        mark = f"{MARK}={self._mark}".encode()
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and mark in _read(folder / "environ").split(b"\0")
        ]


def _kill(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)


def _read(path: Path) -> bytes:
    """Empty for a process that is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parent(process_id: int) -> int:
    status = _read(Path("/proc") / str(process_id) / "stat").rpartition(b")")[2].split()
    return int(status[1]) if status else 0
