"""What a run serves over HTTP: from the start on, though the engine comes later."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.errors import JobFileError
from pipemax_worker.preflight.findings import Finding
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.telemetry.energy_meter import EnergyMeter
from pipemax_worker.telemetry.http import TelemetryServer
from pipemax_worker.telemetry.progress import ProgressSnapshot, progress_as_json
from pipemax_worker.telemetry.work_totals import WorkTotals

STARTING = "Starting"


class Served:
    """The pages' sources. While stages load there are no metrics, and the phase is Starting."""

    def __init__(self, job_name: str) -> None:
        self.metrics: Callable[[], bytes] = bytes
        self.snapshot: Callable[[], ProgressSnapshot] = lambda: starting_snapshot(job_name)
        self.closed_ranges: Callable[[], WorkTotals] = WorkTotals
        self.preflight: tuple[Finding, ...] = ()
        self.meter = EnergyMeter((), MonotonicClock(), lambda _: None)
        self.add_energy: Callable[[ProgressSnapshot], ProgressSnapshot] = lambda snapshot: snapshot
        self.ledger_mark = ""

    @property
    def is_ready(self) -> bool:
        """Whether the pipeline is up."""
        return self.snapshot().phase != STARTING

    def progress(self) -> ProgressSnapshot:
        """The snapshot, with what the ledger says of all workers where that is more."""
        snapshot, found = self.add_energy(self.snapshot()), self.closed_ranges()
        if found.bytes_done <= snapshot.closed_ranges.bytes_done:
            return snapshot
        return msgspec.structs.replace(snapshot, closed_ranges=found)


def starting_snapshot(job_name: str) -> ProgressSnapshot:
    """The picture of a run whose engine is not there yet."""
    return ProgressSnapshot(
        job_name=job_name,
        phase=STARTING,
        num_done=0,
        num_failed=0,
        num_in_flight=0,
        input_bytes_total=1,
        input_bytes_done=0,
        elapsed_seconds=0.0,
        tokens_per_second=0.0,
        statistics=EngineStatistics(),
    )


def _as_json(finding: Finding) -> dict[str, str]:
    return {name: str(value) for name, value in msgspec.structs.asdict(finding).items()}


@contextlib.contextmanager
def serve_telemetry(
    options: RunOptions, served: Served, announce: Callable[[str], None]
) -> Iterator[None]:
    """Serve as long as the block runs, where a port is wanted; ``announce`` is told the address.

    Raises JobFileError where the port cannot be had.
    """
    if options.port is None:
        yield
        return
    try:
        server = TelemetryServer(
            options.address,
            options.port,
            lambda: served.metrics(),
            lambda: progress_as_json(
                served.progress(), map(_as_json, served.preflight), served.ledger_mark
            ),
            lambda: served.is_ready,
        )
    except OSError as error:
        raise JobFileError(
            f"--port {options.port}: cannot be served at {options.address}: {error.strerror}; "
            "use another port, or 0 for a free one"
        ) from error
    announce(f"metrics: http://{options.address}:{server.port}/metrics, also /progress")
    try:
        yield
    finally:
        server.close()
