"""A cluster asked through ``kubectl``: its configuration, its credentials, its words on failure."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import msgspec

from pipemax_worker.errors import UnreachableError

TIMEOUT_SECONDS = 20.0
MAX_WORDS = 500


class Kubectl:
    """``options``: for every call, such as ``--context``."""

    def __init__(self, options: Sequence[str] = (), program: str = "kubectl") -> None:
        self._command = (program, *options)

    def run(self, *arguments: str) -> bytes:
        """What it printed. Raises UnreachableError."""
        command = [*self._command, *arguments]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise UnreachableError(
                f"--cluster asks the cluster through {command[0]}, which is not on the PATH; "
                "install it, or give a worker's URL"
            ) from None
        except OSError as error:
            raise UnreachableError(f"{command[0]} cannot be run: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise UnreachableError(
                f"`{' '.join(command)}` has not answered for {TIMEOUT_SECONDS:.0f} s; see whether "
                "`kubectl get --raw /readyz` does"
            ) from None
        if done.returncode:
            raise UnreachableError(f"`{' '.join(command)}`: {_last_words(done)}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """The JSON of ``kubectl get ARGUMENTS -o json``. Raises UnreachableError."""
        printed = self.run("get", *arguments, "-o", "json")
        try:
            return msgspec.json.decode(printed)
        except msgspec.DecodeError as error:
            raise UnreachableError(
                f"{self._command[0]} get {' '.join(arguments)}: no JSON ({error})"
            ) from error


def _last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    """Of what kubectl says the last line is for people."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][-MAX_WORDS:] if lines else f"exit code {done.returncode}"
