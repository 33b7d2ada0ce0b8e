"""Where a job's model, input and output are on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.resolve import HubId, resolve_model, resolve_nvme, resolve_place


@dataclass(frozen=True)
class Places:
    """``nvme_folder`` None with an NVMe tier means a folder that ends with the run."""

    model_folder: Path
    inputs: tuple[str, ...]
    output: str
    nvme_folder: Path | None


def resolve_places(job: InferenceJob, job_file: Path, mounts: Mapping[str, str]) -> Places:
    """Relative places start at the job file's folder.

    Raises JobFileError, and ModelNotFoundError where the model is no folder on this machine.
    """
    spec = job.spec
    base = job_file.resolve().parent
    nvme = spec.kv_cache.nvme
    return Places(
        model_folder=_model_folder(spec.model.uri, base, mounts),
        inputs=tuple(resolve_place(uri, base, mounts) for uri in spec.input.all_uris),
        output=resolve_output(job, job_file, mounts),
        nvme_folder=None if nvme is None else resolve_nvme(nvme, mounts),
    )


def resolve_output(job: InferenceJob, job_file: Path, mounts: Mapping[str, str]) -> str:
    """The output's place alone: for commands that read results. Raises JobFileError."""
    base = job_file.resolve().parent
    return resolve_place(job.spec.output.uri, base, mounts)


def _model_folder(uri: str, base: Path, mounts: Mapping[str, str]) -> Path:
    found = resolve_model(uri, base, mounts)
    if isinstance(found, HubId):
        raise ModelNotFoundError(
            f"spec.model.uri: {uri!r} is no folder ({found.missing_path}), and models are not "
            "downloaded by this version; put the model's folder there or give its path"
        )
    if not found.is_dir():
        raise ModelNotFoundError(f"spec.model.uri: {found}: no such folder; check model.uri")
    return found
