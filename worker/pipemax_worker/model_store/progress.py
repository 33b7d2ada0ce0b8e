"""How far a download is, counted by its threads and shown by whoever watches it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import msgspec

from pipemax_worker.contract.clock import Clock

REPORT_INTERVAL_SECONDS = 0.25
_RATE_WINDOW_SECONDS = 10.0


class DownloadProgress(msgspec.Struct, frozen=True):
    """``bytes_done`` includes what earlier runs fetched; the rate is of the last ten seconds."""

    place: str
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    elapsed_seconds: float


class DownloadMeter:
    """Counts bytes; ``add`` may be called from any thread, ``report`` from one."""

    def __init__(
        self,
        place: str,
        bytes_found: int,
        bytes_total: int,
        clock: Clock,
        show: Callable[[DownloadProgress], None],
    ) -> None:
        self._place = place
        self._bytes_done = bytes_found
        self._bytes_received = 0
        self._bytes_total = bytes_total
        self._clock = clock
        self._show = show
        self._lock = threading.Lock()
        self._started_seconds = clock.now()
        self._next_seconds = self._started_seconds
        self._received_at: deque[tuple[float, int]] = deque([(self._started_seconds, 0)])

    def add(self, num_bytes: int) -> None:
        """So many bytes have come in."""
        with self._lock:
            self._bytes_done += num_bytes
            self._bytes_received += num_bytes

    def take_back(self, num_bytes: int) -> None:
        """So many bytes on disk were worthless and are fetched again."""
        with self._lock:
            self._bytes_done -= num_bytes

    def report(self, is_last: bool = False) -> None:
        """Show the progress, at most every ``REPORT_INTERVAL_SECONDS`` unless it is the last."""
        now = self._clock.now()
        if now < self._next_seconds and not is_last:
            return
        self._next_seconds = now + REPORT_INTERVAL_SECONDS
        with self._lock:
            done, received = self._bytes_done, self._bytes_received
        self._show(
            DownloadProgress(
                place=self._place,
                bytes_done=done,
                bytes_total=self._bytes_total,
                bytes_per_second=self._rate(now, received),
                elapsed_seconds=now - self._started_seconds,
            )
        )

    def _rate(self, now: float, received: int) -> float:
        window = self._received_at
        window.append((now, received))
        while len(window) > 2 and window[1][0] <= now - _RATE_WINDOW_SECONDS:
            window.popleft()
        before_seconds, before = window[0]
        elapsed_seconds = now - before_seconds
        return (received - before) / elapsed_seconds if elapsed_seconds > 0 else 0.0
