"""Checks a job without running it: the file, what it names, and on request every line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipemax_worker.contract.request import RecordKey
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.ranges import plan_ranges
from pipemax_worker.dataset.reader import RangeReader
from pipemax_worker.errors import RequestError
from pipemax_worker.job.load import load_job
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.runner.preparation import PreparedJob, build_processor, prepare_job
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
    """Raises the error that ``run`` would raise for the file, the model, the input or the output;
    faults of single lines, which ``run`` turns into records, are in the report."""
    if not check_places:
        job = load_job(job_file)
        return ValidationReport((f"{job_file}: InferenceJob {job.metadata.name} is valid",))
    prepared = prepare_job(job_file, mounts)
    processor = build_processor(prepared)
    open_store(prepared.places.output).probe()
    lines = _describe(job_file, prepared)
    if not check_lines:
        return ValidationReport(lines)
    num_lines, reasons, faults = _check_lines(prepared, processor)
    counted = ", ".join(f"{count} x {code}" for code, count in reasons.most_common())
    summary = f"  requests  {num_lines} lines, {sum(reasons.values())} faulty"
    return ValidationReport((*lines, summary + (f": {counted}" if counted else "")), faults)


def _describe(job_file: Path, prepared: PreparedJob) -> tuple[str, ...]:
    config = prepared.model_config
    size_bytes = sum(file.size_bytes for file in prepared.inputs)
    return (
        f"{job_file}: InferenceJob {prepared.job.metadata.name} is valid",
        f"  model     {prepared.places.model_folder}: {config.architecture}, "
        f"{config.num_hidden_layers} layers, context {config.max_position_embeddings} tokens",
        f"  input     {len(prepared.inputs)} files, {format_bytes(size_bytes)}",
        f"  output    {prepared.places.output}: writable",
    )


def _check_lines(
    prepared: PreparedJob, processor: PromptProcessor
) -> tuple[int, Counter[str], tuple[str, ...]]:
    num_lines = 0
    reasons: Counter[str] = Counter()
    faults: list[str] = []
    first_seen: dict[bytes, RecordKey] = {}
    for input_range in plan_ranges(prepared.inputs, _RANGE_BYTES):
        for line in RangeReader(input_range):
            num_lines += 1
            try:
                _check_line(processor, line.data, line.key, line.is_too_long, first_seen)
            except RequestError as error:
                reasons[error.code] += 1
                if len(faults) < MAX_FAULTS_SHOWN:
                    where = f"{line.key.file}:{line.line_number_in_range}"
                    faults.append(f"{where}: {error.code}: {error}")
    hidden = sum(reasons.values()) - len(faults)
    if hidden:
        faults.append(f"... and {hidden} more")
    return num_lines, reasons, tuple(faults)


def _check_line(
    processor: PromptProcessor,
    data: bytes,
    key: RecordKey,
    is_too_long: bool,
    first_seen: dict[bytes, RecordKey],
) -> None:
    if is_too_long:
        raise RequestError("line_too_long", "the line is too long to be read")
    prepared = processor.prepare(data, key, None)
    first = first_seen.setdefault(prepared.custom_id.encode(), key)
    if first != key:
        raise RequestError(
            "duplicate_custom_id",
            f"custom_id {prepared.custom_id!r} is also that of {first.file}, byte {first.offset}",
            "custom_id",
        )
