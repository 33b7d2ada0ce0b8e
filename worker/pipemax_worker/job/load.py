"""Job files in and out. One message lists all faults of a file, in the order of its lines."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from pipemax_worker.errors import JobFileError
from pipemax_worker.job.document import Document, Fault, Location, parse_document
from pipemax_worker.job.faults import describe
from pipemax_worker.job.inference_job import InferenceJob

MAX_FILE_BYTES = 2**20

# A file of another kind has no field right; only these faults are shown then.
_IDENTITY: tuple[Location, ...] = (("apiVersion",), ("kind",))


def load_job(path: Path) -> InferenceJob:
    """Read a job file.

    Raises JobFileError: not readable, not YAML, or refused; one line ``FILE:LINE: FIELD: what was
    found, what is expected`` for each fault. Rules over several fields are checked once each of
    the fields is right alone.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise JobFileError(f"{path}: no such file, expected the YAML of an InferenceJob") from None
    except IsADirectoryError:
        raise JobFileError(f"{path}: this is a folder, expected a job file in it") from None
    except OSError as error:
        raise JobFileError(f"{path}: could not be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise JobFileError(f"{path}: not a job file: larger than {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise JobFileError(f"{path}:{line}: not UTF-8 text") from None
    return parse_job(text, str(path))


def parse_job(text: str, source_name: str) -> InferenceJob:
    """Like :func:`load_job`, of a text; ``source_name`` stands for the file in messages."""
    document = parse_document(text, source_name)
    if not isinstance(document.value, dict):
        raise JobFileError(
            f"{source_name}:{document.line(())}: found no mapping, expected an InferenceJob "
            "that begins with apiVersion, kind, metadata and spec"
        )
    try:
        job = InferenceJob.model_validate(document.value)
    except ValidationError as refused:
        faults = [fault for error in refused.errors() for fault in describe(error, document)]
        raise _refusal(faults, document, source_name) from None
    if document.faults:
        raise _refusal([], document, source_name)
    return job


def _refusal(faults: list[Fault], document: Document, source_name: str) -> JobFileError:
    of_identity = [fault for fault in faults if fault.location in _IDENTITY]
    if any(document.has(fault.location) for fault in of_identity):
        faults = of_identity
    ordered = sorted((*faults, *document.faults), key=lambda fault: fault.line)
    return JobFileError("\n".join(_sentence(fault, source_name) for fault in ordered))


def _sentence(fault: Fault, source_name: str) -> str:
    field = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.location
    ).removeprefix(".")
    return f"{source_name}:{fault.line}: {field + ': ' if field else ''}{fault.message}"


def dump_job(job: InferenceJob, with_defaults: bool = True) -> str:
    """The YAML of ``job`` with the fields that were given, or of these with those that are not what
    they are by default; parse_job(dump_job(job), ...) == job."""
    fields = job.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude_defaults=not with_defaults
    )
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    return text
