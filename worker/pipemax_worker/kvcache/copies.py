"""Copies that are ordered and not yet reported by every stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, CopyResult, pack_int32
from pipemax_worker.errors import InvariantError


class CompletedCopy(msgspec.Struct, frozen=True):
    """A copy that all stages have reported.

    failed_block_ids   blocks for which at least one stage failed.
    lost_block_ids     those of them that have no valid copy left; they are invalidated already and
                       their holders must recompute. A failed store or demote loses nothing: its
                       source stays the valid copy.
    num_bytes          all stages together.
    seconds            of the slowest stage: the time that the link was busy with it.
    """

    job_id: int
    source: Tier
    target: Tier
    block_ids: tuple[int, ...]
    failed_block_ids: tuple[int, ...]
    lost_block_ids: tuple[int, ...]
    num_bytes: int
    seconds: float


@dataclass(slots=True)
class PendingCopy:
    """A copy in flight. ``versions[i]`` is the content of ``block_ids[i]`` that it carries; a load,
    which counts since it was ordered, needs none.

    ``is_settled``: a store whose message is closed; it counts, and its source is not pinned.
    """

    job_id: int
    source: Tier
    target: Tier
    block_ids: tuple[int, ...]
    versions: tuple[int, ...]
    source_slots: tuple[int, ...]
    target_slots: tuple[int, ...]
    unreported_stages: int  # one bit a stage
    failed: set[int] = field(default_factory=set)
    num_bytes: int = 0
    seconds: float = 0.0
    is_settled: bool = False

    def completed(self, lost_block_ids: Sequence[int]) -> CompletedCopy:
        return CompletedCopy(
            job_id=self.job_id,
            source=self.source,
            target=self.target,
            block_ids=self.block_ids,
            failed_block_ids=tuple(self.block_ids[position] for position in sorted(self.failed)),
            lost_block_ids=tuple(lost_block_ids),
            num_bytes=self.num_bytes,
            seconds=self.seconds,
        )


class PendingCopies:
    """Numbers the jobs and gathers what each stage reports of them."""

    def __init__(self, num_stages: int) -> None:
        self.num_stages = num_stages
        self._all_stages = (1 << num_stages) - 1
        self._next_job_id = 0
        self._pending: dict[int, PendingCopy] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def values(self) -> Iterable[PendingCopy]:
        return self._pending.values()

    def get(self, job_id: int) -> PendingCopy | None:
        """The copy, while it is in flight."""
        return self._pending.get(job_id)

    def add(
        self,
        source: Tier,
        target: Tier,
        block_ids: Sequence[int],
        versions: Sequence[int],
        source_slots: Sequence[int],
        target_slots: Sequence[int],
    ) -> CopyJob:
        job_id = self._next_job_id
        self._next_job_id += 1
        self._pending[job_id] = PendingCopy(
            job_id=job_id,
            source=source,
            target=target,
            block_ids=tuple(block_ids),
            versions=tuple(versions),
            source_slots=tuple(source_slots),
            target_slots=tuple(target_slots),
            unreported_stages=self._all_stages,
        )
        return CopyJob(job_id, source, target, pack_int32(source_slots), pack_int32(target_slots))

    def report(self, stage: int, result: CopyResult) -> PendingCopy | None:
        """Note one stage's result; the copy itself once every stage has reported it.

        Raises InvariantError for a stage or job that is not awaited.
        """
        copy = self._pending.get(result.job_id)
        if not 0 <= stage < self.num_stages or copy is None:
            raise InvariantError(
                f"stage {stage} reports copy {result.job_id}, which is not in flight there"
            )
        if not copy.unreported_stages & (1 << stage):
            raise InvariantError(f"stage {stage} reports copy {result.job_id} twice")
        copy.unreported_stages &= ~(1 << stage)
        copy.failed.update(result.failed)
        copy.num_bytes += result.num_bytes
        copy.seconds = max(copy.seconds, result.seconds)
        return None if copy.unreported_stages else self._pending.pop(result.job_id)
