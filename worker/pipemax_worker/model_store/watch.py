"""What a fetch tells its caller, and how it hears that it shall stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipemax_worker.model_store.progress import DownloadProgress


def _ignore(_: object) -> None:
    """Nobody looks."""


@dataclass(frozen=True)
class Watch:
    """Called from the thread that fetches, never from those that transfer.

    check_stop     called several times a second; what it raises ends the fetch, and what was
                   transferred is kept.
    say            a line for the user, rarely.
    show_progress  several times a second while bytes are transferred.
    """

    check_stop: Callable[[], None] = lambda: None
    say: Callable[[str], None] = _ignore
    show_progress: Callable[[DownloadProgress], None] = _ignore
