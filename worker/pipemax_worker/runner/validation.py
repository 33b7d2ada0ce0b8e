"""Checks a job without running it: the file, what it names, and on request every line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipemax_worker.contract.request import Request
from pipemax_worker.dataset.inputs import InputFile, discover_inputs
from pipemax_worker.dataset.places import open_store
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.load import load_job
from pipemax_worker.pipeline.gpus import count_gpus, gpu_memory_bytes
from pipemax_worker.pipeline.settings import build_geometry
from pipemax_worker.runner.input_check import InputReport, check_input
from pipemax_worker.runner.job_ledger import find_earlier_results, find_ledger
from pipemax_worker.runner.line_checker import LineChecker
from pipemax_worker.runner.model_provision import fetch_settings, locate, resolve_model_source
from pipemax_worker.runner.places import resolve_inputs, resolve_output
from pipemax_worker.runner.preparation import PreparedJob, build_processor, prepare_job
from pipemax_worker.runner.session import build_scheduler
from pipemax_worker.runner.sizing import derive_session_settings
from pipemax_worker.runner.start_messages import describe_tiers
from pipemax_worker.telemetry.progress import format_bytes


@dataclass(frozen=True)
class ValidationReport:
    """``lines`` say what was found, ``faults`` what is wrong."""

    lines: tuple[str, ...]
    faults: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return os.EX_DATAERR if self.faults else os.EX_OK


def validate_job(
    job_file: Path, mounts: Mapping[str, str], check_places: bool, check_lines: bool
) -> ValidationReport:
    """Raises the error that ``run`` would raise for the file, the model, the input, the output or
    the sizes; faults of single lines, which ``run`` turns into records, are in the report."""
    job = load_job(job_file)
    if not check_places:
        return ValidationReport((f"{job_file}: InferenceJob {job.metadata.name} is valid",))
    folder, model_place = locate_model(job, job_file, mounts)
    if folder is None:
        return _report_without_model(job, job_file, mounts, model_place, check_lines)
    prepared = prepare_job(job_file, mounts, lambda _model, _settings: folder)
    build_processor(prepared).close()
    store = open_store(prepared.places.output)
    store.probe()
    find_ledger(prepared, store)
    find_earlier_results(prepared)
    tiers, _ = _check_sizes(prepared)
    lines = (*_describe(job_file, prepared, model_place), tiers)
    if not check_lines:
        return ValidationReport(lines)
    found = check_input(prepared.inputs, partial(_make_checker, prepared))
    return ValidationReport((*lines, _summarize(found)), tuple(_list_faults(found)))


def _make_checker(prepared: PreparedJob) -> LineChecker:
    _, check_request = _check_sizes(prepared)
    return LineChecker(prepared.inputs, build_processor(prepared), check_request)


def _summarize(report: InputReport) -> str:
    counted = ", ".join(f"{count} x {code}" for code, count in report.reasons.items())
    faulty = f"{report.num_faulty} faulty" + (f": {counted}" if counted else "")
    return f"  requests  {report.num_lines} lines, {faulty}"


def _list_faults(report: InputReport) -> Iterator[str]:
    """The first ones, and how many there are besides."""
    yield from report.faults
    if num_hidden := report.num_faulty - len(report.faults):
        yield f"... and {num_hidden} more"


def locate_model(
    job: InferenceJob, job_file: Path, mounts: Mapping[str, str]
) -> tuple[Path | None, str]:
    """The folder, None if a run would fetch it first, and the model's place in words."""
    source = resolve_model_source(job, job_file, mounts)
    if isinstance(source, Path):
        return source, str(source)
    return locate(source, fetch_settings(job, job_file, mounts))


def _report_without_model(
    job: InferenceJob,
    job_file: Path,
    mounts: Mapping[str, str],
    model_place: str,
    check_lines: bool,
) -> ValidationReport:
    """What can be said of a job whose model a run would fetch first."""
    if check_lines:
        raise ModelNotFoundError(
            f"{model_place}; --input needs its tokenizer: run the job once, or validate without"
        )
    inputs = discover_inputs(resolve_inputs(job, job_file, mounts))
    output = resolve_output(job, job_file, mounts)
    open_store(output).probe()
    return ValidationReport(
        (
            f"{job_file}: InferenceJob {job.metadata.name} is valid",
            f"  model     {model_place}",
            *_describe_places(inputs, output),
        )
    )


def _check_sizes(prepared: PreparedJob) -> tuple[str, Callable[[Request], None]]:
    """The tiers in words, and what tells whether a request fits into them."""
    places, has_nvme = prepared.places, prepared.job.spec.kv_cache.nvme is not None
    settings = derive_session_settings(
        prepared.job.spec,
        prepared.model_config,
        places.model_folder,
        places.nvme_folder or (Path() if has_nvme else None),
        count_gpus(),
    )
    geometry = build_geometry(settings.pipeline, gpu_memory_bytes())
    return describe_tiers(geometry), build_scheduler(settings, geometry).check_request


def _describe(job_file: Path, prepared: PreparedJob, model_place: str) -> tuple[str, ...]:
    config = prepared.model_config
    return (
        f"{job_file}: InferenceJob {prepared.job.metadata.name} is valid",
        f"  model     {model_place}: {config.architecture}, "
        f"{config.num_hidden_layers} layers, context {config.max_position_embeddings} tokens",
        *_describe_places(prepared.inputs, prepared.places.output),
    )


def _describe_places(inputs: Sequence[InputFile], output: str) -> tuple[str, ...]:
    size_bytes = sum(file.size_bytes for file in inputs)
    files = "file" if len(inputs) == 1 else "files"
    return (
        f"  input     {len(inputs)} {files}, {format_bytes(size_bytes)}",
        f"  output    {output}: writable",
    )
