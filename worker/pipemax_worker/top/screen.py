"""A frame drawn again and again until somebody has seen enough."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live

Draw = Callable[[int, int], RenderableType]
"""Width and height of the terminal -> what is shown."""

END_OF_FILE = "\x04"
QUIT_KEYS = frozenset(("q", "Q", "\x03", END_OF_FILE, "\x1b"))
"""Control-C, control-D and Escape too."""


def watch(draw: Draw, console: Console, interval_seconds: float, keys: Keys) -> None:
    """Until a key says so, or Ctrl-C. The terminal is then as it was before."""
    live = Live(console=console, screen=True, auto_refresh=False)
    with keys.listening(), contextlib.suppress(KeyboardInterrupt), live:
        while True:
            live.update(draw(console.width, console.height), refresh=True)
            if keys.wait(interval_seconds) in QUIT_KEYS:
                return


class Keys:
    """Single keys of a terminal. Of anything else there are none: then ``wait`` only waits."""

    def __init__(self, stream: TextIO = sys.stdin) -> None:
        self._stream = stream

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keys come at once and are not shown, as long as the block runs."""
        if not self._stream.isatty():
            yield
            return
        descriptor = self._stream.fileno()
        before = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor, termios.TCSANOW)  # a key that was typed before counts
        try:
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    def wait(self, seconds: float) -> str:
        """The next key within that time, or an empty text; a terminal that is gone says quit."""
        if not self._stream.isatty():
            time.sleep(seconds)
            return ""
        descriptor = self._stream.fileno()
        if not select.select([descriptor], [], [], seconds)[0]:
            return ""
        return os.read(descriptor, 1).decode(errors="replace") or END_OF_FILE
