"""A worker's page without its pipeline: what it says of the output folder that it sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kit.progress import make_snapshot
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.sharing import read_or_leave_mark
from pipemax_worker.telemetry.http import TelemetryServer
from pipemax_worker.telemetry.progress import progress_as_json


@contextlib.contextmanager
def telling_worker(output: Path, address: str, port: int) -> Iterator[None]:
    """``/progress`` of a worker that writes to ``output``, as long as the block runs."""
    page = progress_as_json(make_snapshot(), (), read_or_leave_mark(LocalStore(output)))
    server = TelemetryServer(address, port, bytes, lambda: page)
    try:
        yield
    finally:
        server.close()
