"""Every error that ends a command or a request, in one tree.

    PipemaxError                      exit code, condition reason
    ├── JobFileError                  78  InvalidJobFile       the YAML is refused
    ├── LedgerMismatchError           78  JobChanged           the output belongs to another job
    ├── InputError                    65  InvalidInput         input not readable as requests
    ├── TooManyFailuresError          65  TooManyFailures      errorPolicy is exceeded
    ├── InputNotFoundError            66  InputNotFound        no such input
    ├── ModelNotFoundError            66  ModelNotFound        model folder or a shard is missing
    ├── UnsupportedModelError         66  UnsupportedModel     unknown architecture or feature
    ├── StageDiedError                69  StageDied            a stage process or its GPU died
    ├── UnreachableError              69  Unreachable          no worker or cluster answers
    ├── InvariantError                70  InternalError        a bug: an invariant is broken
    ├── PreflightError                71  PreflightFailed      this machine cannot run the job
    ├── GpuLostError                  72  GpuLost              a GPU has failed for good
    ├── OutputError                   74  OutputFailed         the output store refused a write
    ├── ModelDownloadError            74  ModelDownloadFailed  a model could not be fetched
    ├── StoreNotSharedError           74  StoreNotShared       nodes do not see the same output
    ├── InputUnavailableError         74  InputUnavailable     the input's store does not answer
    ├── KVTierError                   74  KVTierFailed         host or NVMe tier could not be used
    ├── StoppedError                  75  Stopped              stopped on request; resumable
    └── RequestError                   -  (per request)        becomes a record, never ends the job

A message says what was wrong, where (file, line, field), and what to do.
"""

from __future__ import annotations

import os


class PipemaxError(Exception):
    """Base of all errors we raise on purpose.

    ``exit_code`` is the process's exit status (``os.EX_*``); ``reason`` is the condition reason
    that the operator shows. Both are part of the protocol between worker and operator.
    """

    exit_code: int = os.EX_SOFTWARE
    reason: str = "InternalError"


class JobFileError(PipemaxError):
    """The job file is refused; the message names file, line and field."""

    exit_code = os.EX_CONFIG
    reason = "InvalidJobFile"


class LedgerMismatchError(PipemaxError):
    """The output location holds the ledger of a job with other inputs, model or parameters."""

    exit_code = os.EX_CONFIG
    reason = "JobChanged"


class InputError(PipemaxError):
    """The input as a whole cannot be read as requests."""

    exit_code = os.EX_DATAERR
    reason = "InvalidInput"


class TooManyFailuresError(PipemaxError):
    """More requests failed than ``errorPolicy`` allows."""

    exit_code = os.EX_DATAERR
    reason = "TooManyFailures"


class InputNotFoundError(PipemaxError):
    """No input file matches ``spec.input.uri``."""

    exit_code = os.EX_NOINPUT
    reason = "InputNotFound"


class ModelNotFoundError(PipemaxError):
    """The model folder, its config, tokenizer or one of its weight files is missing."""

    exit_code = os.EX_NOINPUT
    reason = "ModelNotFound"


class UnsupportedModelError(PipemaxError):
    """The model's architecture, or a feature of it, is not supported."""

    exit_code = os.EX_NOINPUT
    reason = "UnsupportedModel"


class StageDiedError(PipemaxError):
    """A stage process ended or stopped answering."""

    exit_code = os.EX_UNAVAILABLE
    reason = "StageDied"


class UnreachableError(PipemaxError):
    """What was to be looked at does not answer: a worker's HTTP port, or a cluster."""

    exit_code = os.EX_UNAVAILABLE
    reason = "Unreachable"


class InvariantError(PipemaxError):
    """A bug: an internal invariant does not hold."""

    exit_code = os.EX_SOFTWARE
    reason = "InternalError"


class PreflightError(PipemaxError):
    """This machine cannot run the job: a check before the model loads has found why.

    Another machine may do better. The message says for each such finding what helps.
    """

    exit_code = os.EX_OSERR
    reason = "PreflightFailed"


class GpuLostError(PipemaxError):
    """A GPU has failed in a way that no restart on this machine heals; the message has its UUID.

    Not a ``StageDiedError``: nothing is started again here, and the operator avoids the node.
    """

    exit_code = os.EX_OSFILE
    reason = "GpuLost"


class OutputError(PipemaxError):
    """The output location cannot be written."""

    exit_code = os.EX_IOERR
    reason = "OutputFailed"


class ModelDownloadError(PipemaxError):
    """A model that exists could not be fetched or kept: connection, disk, damaged bytes.

    What was fetched is kept, and the next run goes on there.
    """

    exit_code = os.EX_IOERR
    reason = "ModelDownloadFailed"


class StoreNotSharedError(PipemaxError):
    """The nodes of a job do not see the same output location, or the others have not come yet.

    Not the job file's exit code: a node that was late is found when the worker is started again.
    """

    exit_code = os.EX_IOERR
    reason = "StoreNotShared"


class InputUnavailableError(PipemaxError):
    """The store that holds the input does not answer; the input itself may be all right."""

    exit_code = os.EX_IOERR
    reason = "InputUnavailable"


class KVTierError(PipemaxError):
    """The host or NVMe tier of the KV cache cannot be allocated, read or written."""

    exit_code = os.EX_IOERR
    reason = "KVTierFailed"


class StoppedError(PipemaxError):
    """Stopped by a signal; the output is flushed and the job can be continued."""

    exit_code = os.EX_TEMPFAIL
    reason = "Stopped"


class RequestError(PipemaxError):
    """One request cannot be served. It becomes an error record; the job goes on.

    ``code`` is a stable machine-readable word (``invalid_json``, ``missing_field``,
    ``unsupported_parameter``, ``model_not_found``, ``context_length_exceeded``,
    ``kv_cache_exceeded``, ``duplicate_custom_id``, ...). ``param`` names the offending field as a
    dotted path inside the input line, e.g. ``body.temperature``.
    """

    exit_code = os.EX_DATAERR
    reason = "RequestFailed"

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.message = message


_STAGE_ERRORS: dict[str, type[PipemaxError]] = {
    error.reason: error
    for error in (
        ModelNotFoundError,
        UnsupportedModelError,
        StageDiedError,
        GpuLostError,
        InvariantError,
        KVTierError,
    )
}


def error_from_reason(reason: str, message: str) -> PipemaxError:
    """Rebuild an error that crossed a process boundary as ``(reason, message)``."""
    return _STAGE_ERRORS.get(reason, StageDiedError)(message)
