"""One stage of the simulated pipeline: when it begins and ends each message."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.transfers import CopyJob, CopyResult
from pipemax_worker.planner.simulated_links import LinkSpeeds, StageLinks


class StageTurn(msgspec.Struct, frozen=True, gc=False):
    """What one message was to one stage, in seconds."""

    compute_seconds: float
    stall_seconds: float
    wait_seconds: float
    end: float


class SimulatedStage:
    """Runs messages in order, each by the five steps of ``contract.messages``."""

    def __init__(self, speeds: LinkSpeeds, slot_bytes: int) -> None:
        self.links = StageLinks(speeds)
        self.free = 0.0
        self._slot_bytes = slot_bytes
        self._loads_landed = 0.0

    def run(self, ordered: float, arrival: float, compute_seconds: float) -> StageTurn:
        """A message that reached the stage at ``ordered`` and whose hidden states do at
        ``arrival``. Call it before the message's own copies: it waits for loads that earlier ones
        ordered, which is the stall."""
        # max(), written out: this is most of what a simulated turn costs.
        begin = self.free if self.free > ordered else ordered
        loaded = begin if begin > self._loads_landed else self._loads_landed
        start = loaded if loaded > arrival else arrival
        self.free = end = start + compute_seconds
        return StageTurn(compute_seconds, loaded - begin, start - loaded, end)

    def pass_by(self, ordered: float) -> StageTurn:
        """A message without rows: no forward."""
        self.free = max(self.free, ordered)
        return StageTurn(0.0, 0.0, 0.0, self.free)

    def copy(self, job: CopyJob, ordered: float, is_load: bool) -> tuple[float, CopyResult]:
        """Order a copy; when it has landed, and what the stage will say of it."""
        num_bytes = job.num_slots * self._slot_bytes
        landed, seconds = self.links.copy(job, num_bytes, ordered)
        if is_load and landed > self._loads_landed:
            self._loads_landed = landed
        return landed, CopyResult(job.job_id, num_bytes, seconds)
