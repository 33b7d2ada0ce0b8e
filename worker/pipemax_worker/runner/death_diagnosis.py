"""Why a pipeline died, where the machine can say: a GPU that is gone, memory that ran out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipemax_worker.errors import GpuLostError, PipemaxError, StageDiedError
from pipemax_worker.pipeline.gpus import gpu_uuids
from pipemax_worker.pipeline.settings import PipelineSettings
from pipemax_worker.preflight.memory import count_oom_kills
from pipemax_worker.preflight.nvidia_smi import find_lost_gpus, read_gpus

GPU_REMEDY = "reset or replace the GPU, or restart the machine; then the same command goes on"
MEMORY_REMEDY = "lower kvCache.host, or give the worker more memory (values: worker.memoryOverhead)"


class DeathDiagnosis:
    """Asks after each death. ``uuids``: the GPU of each stage, empty on a CPU.

    ``seen``: those that ``nvidia-smi`` listed at the start; no other one can be called lost by its
    silence. Counts the kernel's kills for lack of memory from its making on.
    """

    def __init__(
        self,
        uuids: Sequence[str],
        seen: Sequence[str],
        find_lost: Callable[[Sequence[str]], dict[str, str]] = find_lost_gpus,
        count_kills: Callable[[], int | None] = count_oom_kills,
    ) -> None:
        self._uuids = tuple(uuids)
        self._seen = tuple(uuid for uuid in uuids if uuid in seen)
        self._find_lost = find_lost
        self._count_kills = count_kills
        self._num_kills = count_kills()

    def explain(self, error: PipemaxError, stage: int | None = None) -> PipemaxError:
        """``error`` with what the machine says of it. GpuLostError if a GPU is gone; StageDiedError
        with a remedy if the kernel killed something for lack of memory; else ``error`` itself.

        ``stage`` is the one that died, if it is known.
        """
        if isinstance(error, GpuLostError):
            return GpuLostError(f"{self._name(stage)}: {error}; {GPU_REMEDY}")
        if lost := self._find_lost(self._seen) if self._seen else {}:
            named = "; ".join(f"{self._name_of(uuid)}: {words}" for uuid, words in lost.items())
            return GpuLostError(f"{named}; {GPU_REMEDY} ({error})")
        return self._explain_kill(error)

    def _explain_kill(self, error: PipemaxError) -> PipemaxError:
        before, now = self._num_kills, self._count_kills()
        self._num_kills = now
        if before is None or now is None or now <= before or not isinstance(error, StageDiedError):
            return error
        return StageDiedError(
            f"{error}; the kernel has killed it for lack of memory (OOMKilled): {MEMORY_REMEDY}"
        )

    def _name(self, stage: int | None) -> str:
        if stage is None or stage >= len(self._uuids):
            return "a GPU is lost"
        return self._name_of(self._uuids[stage])

    def _name_of(self, uuid: str) -> str:
        return f"GPU {uuid or 'of unknown UUID'} (stage {self._uuids.index(uuid)}) is lost"


def make_diagnosis(settings: PipelineSettings) -> DeathDiagnosis:
    """Of a pipeline with these settings on this machine."""
    if settings.device == "cpu":
        return DeathDiagnosis((), ())
    seen = [one.uuid for one in read_gpus().values() if one.total_bytes is not None]
    return DeathDiagnosis(gpu_uuids()[: settings.num_stages], seen)
