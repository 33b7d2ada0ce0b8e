"""Time that passes only when the simulated pipeline says so."""

from __future__ import annotations


class VirtualClock:
    """A ``Clock``. Written by the simulated pipeline alone."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds
