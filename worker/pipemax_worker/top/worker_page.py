"""A worker's ``/progress``, as far as it is shown. Pure."""

from __future__ import annotations

import msgspec

from pipemax_worker.errors import UnreachableError


class Requests(msgspec.Struct, frozen=True, rename="camel"):
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    estimated_total: int | None = None


class Blocks(msgspec.Struct, frozen=True):
    """Of one tier."""

    used: int = 0
    cached: int = 0
    free: int = 0

    @property
    def used_share(self) -> float:
        return self.used / (total if (total := self.used + self.cached + self.free) else 1)


class EngineRequests(msgspec.Struct, frozen=True):
    waiting: int = 0
    running: int = 0
    preempted: int = 0


class StageSeconds(msgspec.Struct, frozen=True):
    """Where a stage's time went since the run's start."""

    stage: int = 0
    compute: float = 0.0
    stall: float = 0.0
    wait: float = 0.0


class Energy(msgspec.Struct, frozen=True, rename="camel"):
    joules: float = 0.0
    gpu_seconds: float = 0.0


class WorkerPage(msgspec.Struct, frozen=True, rename="camel"):
    """Fields as in ``telemetry.progress``; an older worker lacks some. ``kv_swap_bytes`` is by
    link, such as ``host-device``."""

    job: str = ""
    phase: str = ""
    requests: Requests = Requests()
    fraction_done: float = 0.0
    elapsed_seconds: float = 0.0
    remaining_seconds: float | None = None
    tokens_per_second: float = 0.0
    tokens: dict[str, int] = {}
    kv_blocks: dict[str, Blocks] = {}
    kv_swap_bytes: dict[str, int] = {}
    engine_requests: EngineRequests = EngineRequests()
    stage_seconds: tuple[StageSeconds, ...] = ()
    energy: Energy = Energy()
    job_energy: Energy = Energy()
    power_watts: float | None = None
    pipeline_restarts: int = 0
    warnings: tuple[str, ...] = ()


def parse_worker_page(data: bytes, place: str) -> WorkerPage:
    """Raises UnreachableError for what is no worker's page; ``place`` says where it came from."""
    try:
        page = msgspec.json.decode(data, type=WorkerPage)
    except msgspec.DecodeError as error:
        raise UnreachableError(
            f"{place}: something answers there that is no PipeMax worker ({error})"
        ) from error
    if not page.phase:
        raise UnreachableError(f"{place}: something answers there that is no PipeMax worker")
    return page
