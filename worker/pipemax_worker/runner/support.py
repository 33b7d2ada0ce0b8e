"""Fields of a job that this version cannot honour are refused: none is passed over in silence.

``credentials``, ``scheduling``, ``image`` and ``ttlSecondsAfterFinished`` speak to the cluster and
mean nothing outside one, which their documentation says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipemax_worker.errors import JobFileError
from pipemax_worker.job.inference_job import InferenceJob


def refuse_unsupported_fields(job: InferenceJob, job_file: Path) -> None:
    """Raise JobFileError with a line for each field that would have no effect."""
    faults = [f"{job_file}: spec.{field}: {message}" for field, message in _unsupported(job)]
    if faults:
        raise JobFileError("\n".join(faults))


def _unsupported(job: InferenceJob) -> Iterator[tuple[str, str]]:
    spec = job.spec
    nvme = spec.kv_cache.nvme
    if nvme is not None and nvme.writes_per_day is not None:
        yield "kvCache.nvme.writesPerDay", "not supported by this version; leave it out"
