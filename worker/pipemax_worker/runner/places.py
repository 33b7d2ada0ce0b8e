"""Where a job's model, input and output are on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.resolve import resolve_nvme, resolve_place
from pipemax_worker.runner.model_provision import FetchModel, provide_model


@dataclass(frozen=True)
class Places:
    """``nvme_folder`` None with an NVMe tier means a folder that ends with the run.
    ``resume_from`` is the output of an earlier job."""

    model_folder: Path
    inputs: tuple[str, ...]
    output: str
    nvme_folder: Path | None
    resume_from: str | None = None


def resolve_places(
    job: InferenceJob, job_file: Path, mounts: Mapping[str, str], fetch_model: FetchModel
) -> Places:
    """Relative places start at the job file's folder. A model from afar is fetched, last of all.

    Raises JobFileError, ModelNotFoundError where a path is no folder, and what ``fetch_model``
    raises.
    """
    spec = job.spec
    base = job_file.resolve().parent
    nvme = spec.kv_cache.nvme
    return Places(
        inputs=resolve_inputs(job, job_file, mounts),
        output=resolve_output(job, job_file, mounts),
        nvme_folder=None if nvme is None else resolve_nvme(nvme, mounts),
        resume_from=spec.resume_from and resolve_place(spec.resume_from, base, mounts),
        model_folder=provide_model(job, job_file, mounts, fetch_model),
    )


def resolve_inputs(job: InferenceJob, job_file: Path, mounts: Mapping[str, str]) -> tuple[str, ...]:
    """Raises JobFileError."""
    base = job_file.resolve().parent
    return tuple(resolve_place(uri, base, mounts) for uri in job.spec.input.all_uris)


def resolve_output(job: InferenceJob, job_file: Path, mounts: Mapping[str, str]) -> str:
    """The output's place alone: for commands that read results. Raises JobFileError."""
    base = job_file.resolve().parent
    return resolve_place(job.spec.output.uri, base, mounts)
