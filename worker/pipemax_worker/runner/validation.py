"""Checks a job without running it: the file, what it names, and on request every line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipemax_worker.contract.request import RecordKey, Request
from pipemax_worker.dataset.inputs import InputFile, discover_inputs
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.ranges import plan_ranges
from pipemax_worker.dataset.reader import Line, RangeReader
from pipemax_worker.errors import ModelNotFoundError, RequestError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.load import load_job
from pipemax_worker.pipeline.gpus import count_gpus, gpu_memory_bytes
from pipemax_worker.pipeline.settings import build_geometry
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.runner.job_ledger import find_earlier_results, find_ledger
from pipemax_worker.runner.model_provision import fetch_settings, locate, resolve_model_source
from pipemax_worker.runner.places import resolve_inputs, resolve_output
from pipemax_worker.runner.preparation import PreparedJob, build_processor, prepare_job
from pipemax_worker.runner.session import build_scheduler
from pipemax_worker.runner.sizing import derive_session_settings
from pipemax_worker.runner.start_messages import describe_tiers
from pipemax_worker.runner.support import refuse_unsupported_fields
from pipemax_worker.telemetry.progress import format_bytes

MAX_FAULTS_SHOWN = 20
_RANGE_BYTES = 2**40


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
    refuse_unsupported_fields(job, job_file)
    if not check_places:
        return ValidationReport((f"{job_file}: InferenceJob {job.metadata.name} is valid",))
    folder, model_place = _locate_model(job, job_file, mounts)
    if folder is None:
        return _report_without_model(job, job_file, mounts, model_place, check_lines)
    prepared = prepare_job(job_file, mounts, lambda _model, _settings: folder)
    processor = build_processor(prepared)
    store = open_store(prepared.places.output)
    store.probe()
    find_ledger(prepared, store)
    find_earlier_results(prepared)
    tiers, check_request = _check_sizes(prepared)
    lines = (*_describe(job_file, prepared, model_place), tiers)
    if not check_lines:
        return ValidationReport(lines)
    check = InputCheck(processor, check_request)
    for input_range in plan_ranges(prepared.inputs, _RANGE_BYTES):
        for line in RangeReader(input_range):
            check.add(line)
    return ValidationReport((*lines, check.summary), check.faults)


def _locate_model(
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


class InputCheck:
    """Checks one line after the other and keeps what is wrong.

    Remembers every ``custom_id``: memory grows with the input, unlike a run's, which looks for
    repeats within a range.
    """

    def __init__(
        self, processor: PromptProcessor, check_request: Callable[[Request], None]
    ) -> None:
        self._processor = processor
        self._check_request = check_request
        self._first_seen: dict[str, RecordKey] = {}
        self._num_lines = 0
        self._reasons: Counter[str] = Counter()
        self._faults: list[str] = []

    def add(self, line: Line) -> None:
        self._num_lines += 1
        try:
            self._check(line)
        except RequestError as error:
            self._reasons[error.code] += 1
            if len(self._faults) < MAX_FAULTS_SHOWN:
                where = f"{line.key.file}:{line.line_number_in_range}"
                self._faults.append(f"{where}: {error.code}: {error}")

    @property
    def summary(self) -> str:
        counted = ", ".join(f"{count} x {code}" for code, count in self._reasons.most_common())
        faulty = f"{self._reasons.total()} faulty" + (f": {counted}" if counted else "")
        return f"  requests  {self._num_lines} lines, {faulty}"

    @property
    def faults(self) -> tuple[str, ...]:
        """The first ones, and how many there are besides."""
        num_hidden = self._reasons.total() - len(self._faults)
        more = (f"... and {num_hidden} more",) if num_hidden else ()
        return (*self._faults, *more)

    def _check(self, line: Line) -> None:
        if line.is_too_long:
            raise RequestError("line_too_long", "the line is too long to be read")
        prepared = self._processor.prepare(line.data, line.key, None)
        first = self._first_seen.setdefault(prepared.custom_id, line.key)
        if first != line.key:
            raise RequestError(
                "duplicate_custom_id",
                f"custom_id {prepared.custom_id!r} is also that of {first.file}, "
                f"byte {first.offset}",
                "custom_id",
            )
        self._check_request(prepared.requests[0])
