"""Jobs that are stopped and go on, in this process: its fork server has torch loaded already."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.jobs import JobFolder
from pipemax_worker.pipeline.executor import PipelineExecutor
from pipemax_worker.runner import job_run
from pipemax_worker.runner.job_run import JobRun


class Run:
    """One run of a job to its end; ``said`` is what it told, ``summary`` its last words."""

    def __init__(self, job: JobFolder, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        capsys.readouterr()
        self.exit_code = job.run(*arguments)
        captured = capsys.readouterr()
        self.said, self.summary = captured.err, captured.out

    @property
    def num_restored(self) -> int:
        return self._number(r"(\d+) restored", self.summary)

    @property
    def num_recomputed(self) -> int:
        return self._number(r"(\d+) recomputed", self.summary)

    @property
    def num_parked_tokens(self) -> int:
        """Whose KV was kept."""
        return self._number(r"parked .* the KV of (\d+) tokens", self.said)

    @property
    def num_parked_outputs(self) -> int:
        return self._number(r"parked .* and (\d+) output tokens", self.said)

    @staticmethod
    def _number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        return int(found.group(1)) if found else 0


def run_and_stop(
    job: JobFolder,
    capsys: pytest.CaptureFixture[str],
    num_records: int,
    before: Callable[[], object] = lambda: None,
) -> Run:
    """SIGTERM comes once so many requests have a record; ``before`` is called just before it.

    From within, after the step that brought the last of them: who watches from outside may be late
    by more than the run has left.
    """
    publish = JobRun.publish
    stops: list[int] = []

    def publish_and_stop(run: JobRun, phase: str) -> None:
        publish(run, phase)
        if not stops and phase == "Running" and run.snapshot.num_done >= num_records:
            stops.append(run.snapshot.num_done)
            before()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_run, "PUBLISH_INTERVAL_SECONDS", 0.0)
        patch.setattr(JobRun, "publish", publish_and_stop)
        stopped = Run(job, capsys)
    assert stops, f"no {num_records} records: {stopped.said}"
    return stopped


def use_stages(monkeypatch: pytest.MonkeyPatch, entry_point: str) -> None:
    """Pipelines that are started from now on run this in their stages."""
    defaults = PipelineExecutor.__init__.__kwdefaults__ | {"entry_point": entry_point}
    monkeypatch.setattr(PipelineExecutor.__init__, "__kwdefaults__", defaults)


class Disk:
    """``folder`` with the means to use up its room. Who may mount no disk of his own has no way to
    fill one, but can be refused: for him the run's folder is closed instead."""

    def __init__(self, folder: Path, is_mounted: bool) -> None:
        self._folder = folder
        self._is_mounted = is_mounted

    def fill(self) -> None:
        if not self._is_mounted:
            _change_modes(self._folder, 0o500)
            return
        with (self._folder / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(bytes(size))

    def clear(self) -> None:
        _change_modes(self._folder, 0o700)
        (self._folder / "filler").unlink(missing_ok=True)


@contextlib.contextmanager
def disk_to_fill(folder: Path, num_bytes: int) -> Iterator[Disk]:
    """``folder`` as a small disk for the block."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    disk = Disk(folder, is_mounted)
    try:
        yield disk
    finally:
        disk.clear()
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _change_modes(folder: Path, mode: int) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            path.chmod(mode)
