"""Debian's Prometheus and its promtool, as programs of the tests: nothing is installed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "prometheus"
PROGRAMS = ("prometheus", "promtool")


class PrometheusMissingError(RuntimeError):
    """No Prometheus here, and none to be had; the message says what to do."""


def find_program(name: str) -> Path:
    """``prometheus`` or ``promtool``: the machine's own, else unpacked from Debian's package into
    a cache, without its service. Raises PrometheusMissingError."""
    assert name in PROGRAMS
    if found := shutil.which(name):
        return Path(found)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = CACHE / name
        if not program.is_file():
            _unpack()
    return program


def _unpack() -> None:
    """The package lists are fetched only where the package is not found without."""
    with tempfile.TemporaryDirectory(dir=CACHE) as text:
        folder = Path(text)
        if not _download(folder):
            _run(["apt-get", "update"], folder)
            if not _download(folder):
                raise PrometheusMissingError(
                    "the tests of alerts and dashboards need Prometheus: "
                    "`sudo apt-get install prometheus`"
                )
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(folder / "files")], check=True)
        for name in PROGRAMS:
            os.replace(folder / "files" / "usr" / "bin" / name, CACHE / name)


def _download(folder: Path) -> bool:
    return _run(["apt-get", "download", "prometheus"], folder) and any(folder.glob("*.deb"))


def _run(command: list[str], folder: Path) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def run_promtool(*arguments: str) -> str:
    """What promtool says. AssertionError where it finds a fault."""
    done = subprocess.run(
        [str(find_program("promtool")), *arguments], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


if __name__ == "__main__":
    for program in PROGRAMS:
        print(f"{program}: {find_program(program)}")
