"""A program on a terminal of its own, with keys for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence

PATIENCE_SECONDS = 180.0


class Terminal:
    """What a program has printed on it, and its keyboard."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process
        self.printed = ""

    def wait_for(self, text: str, number: int = 1) -> None:
        """Until the text has been printed so often."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.printed.count(text) < number:
            assert time.monotonic() < end, f"no {text!r}: {self.printed[-2000:]}"
            self._read()

    def press(self, key: str) -> None:
        os.write(self._descriptor, key.encode())

    def end(self) -> int:
        """Wait for the end; the exit code."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self._read()
        self._read()
        return self.process.returncode

    def shows_keys(self) -> bool:
        """Whether the terminal is as it was at the start: it shows what is typed, and waits for
        whole lines."""
        flags = termios.tcgetattr(self._descriptor)[3]
        return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)

    def _read(self) -> None:
        if select.select([self._descriptor], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # the other end is closed
                self.printed += os.read(self._descriptor, 65536).decode(errors="replace")


def _hear_ctrl_c() -> None:
    """A shell makes what it starts in the background deaf to it, the tests themselves say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def on_terminal(command: Sequence[str], columns: int = 100, rows: int = 40) -> Iterator[Terminal]:
    """Run it; it is killed at the end of the block if it still runs."""
    keyboard, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    process = subprocess.Popen(
        command,
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env=environment,
        start_new_session=True,
        preexec_fn=_hear_ctrl_c,
    )
    try:
        yield Terminal(keyboard, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(screen)
        os.close(keyboard)
