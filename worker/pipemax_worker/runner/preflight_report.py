"""The preflight alone: every finding, and how a run would end by it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.load import load_job
from pipemax_worker.job.resolve import resolve_nvme
from pipemax_worker.pipeline.gpus import count_gpus
from pipemax_worker.preflight.findings import Finding
from pipemax_worker.runner.nvme_folder import derive_job_key, nvme_run_folder
from pipemax_worker.runner.places import resolve_output
from pipemax_worker.runner.preflight import (
    check_expected_gpus,
    derive_needs,
    find_all,
    judge,
)
from pipemax_worker.runner.sizing import derive_session_settings
from pipemax_worker.runner.validation import locate_model


@dataclass(frozen=True)
class PreflightReport:
    """``lines`` for a person; ``exit_code`` as a run's would be."""

    lines: tuple[str, ...]
    exit_code: int


def preflight_job(job_file: Path, mounts: Mapping[str, str]) -> PreflightReport:
    """Raises JobFileError, ModelNotFoundError, UnsupportedModelError, KVTierError, PreflightError.

    Nothing is fetched: of the model only its config is read, which must be on this machine.
    """
    job = load_job(job_file)
    folder, place = locate_model(job, job_file, mounts)
    if folder is None:
        raise ModelNotFoundError(f"{place}; the preflight needs its config.json: run the job once")
    findings = _find(job, job_file, mounts, folder)
    error = judge(findings)
    lines = (f"{job_file}: InferenceJob {job.metadata.name} on this machine", *_describe(findings))
    return PreflightReport(lines, os.EX_OK if error is None else error.exit_code)


def _find(
    job: InferenceJob, job_file: Path, mounts: Mapping[str, str], model_folder: Path
) -> Sequence[Finding]:
    """In a folder where the run's own would be, gone again at the end unless KV is parked in it."""
    spec, nvme = job.spec, job.spec.kv_cache.nvme
    check_expected_gpus(spec.engine.device)
    job_key = derive_job_key(resolve_output(job, job_file, mounts))
    parent = None if nvme is None else resolve_nvme(nvme, mounts)
    with nvme_run_folder(parent, nvme is not None, job_key) as run_folder:
        path = None if run_folder is None else run_folder.path
        config = load_model_config(model_folder)
        settings = derive_session_settings(spec, config, model_folder, path, count_gpus())
        return find_all(derive_needs(job, settings.pipeline), settings.pipeline, path)


def _describe(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(f"  {finding.severity.value:<9} {finding.describe()}" for finding in findings)
