"""What a failed S3 request means: is the key missing, is it worth another try, what to do.

obstore tells kinds of errors apart, but not for how long they last; that is in the HTTP status,
which only its messages carry.
"""

from __future__ import annotations

import enum
import re

import msgspec
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from pipemax_worker.errors import OutputError

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_INSTANCE_METADATA_ADDRESS = "169.254.169.254"
_MAX_DETAIL_LENGTH = 300

_CONFLICT, _PRECONDITION_FAILED, _RANGE_NOT_SATISFIABLE = 409, 412, 416
_TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class FailureKind(enum.Enum):
    """Why a request failed."""

    NOT_FOUND = "there is no such key"
    NO_BUCKET = "there is no such bucket"
    EXISTS = "the key is taken"
    CONFLICT = "another request to the same key was under way"
    CHANGED = "the object is another one than before"
    DENIED = "access is denied"
    NO_CREDENTIALS = "no credentials are set"
    TEMPORARY = "the server does not answer as it should"
    REFUSED = "the server refuses the request"


_ADVICE = {
    FailureKind.NOT_FOUND: "check the place",
    FailureKind.NO_BUCKET: "create the bucket or correct its name",
    FailureKind.DENIED: "check the keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and what they "
    "are allowed: get, put, delete and list",
    FailureKind.NO_CREDENTIALS: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a Secret "
    "in spec.credentials.secretRef",
    FailureKind.TEMPORARY: "check that the server is up and can be reached, then run again: "
    "finished requests are kept",
}
_DEFAULT_ADVICE = "check endpoint, region and bucket, then run again"


class Failure(msgspec.Struct, frozen=True):
    """A failed request. ``detail`` is the server's own word, or the connection's."""

    kind: FailureKind
    detail: str

    @property
    def is_temporary(self) -> bool:
        return self.kind in (FailureKind.TEMPORARY, FailureKind.CONFLICT)

    @property
    def advice(self) -> str:
        return _ADVICE.get(self.kind, _DEFAULT_ADVICE)

    def __str__(self) -> str:
        return f"{self.kind.value} ({self.detail})" if self.detail else self.kind.value


class S3RequestError(OutputError):
    """A request failed for good; ``kind`` says why."""

    def __init__(self, message: str, kind: FailureKind) -> None:
        super().__init__(message)
        self.kind = kind


REQUEST_ERRORS = (BaseError, OSError, ValueError)
"""What an obstore call raises; a missing key is the builtin FileNotFoundError."""


def classify_failure(error: Exception) -> Failure:
    """Pure: what an error of :data:`REQUEST_ERRORS` means."""
    text = str(error).partition("\n\nDebug source:")[0]
    return Failure(_kind_of(error, text), _detail_of(text))


def build_request_error(
    what: str, failure: Failure, num_tries: int, elapsed_seconds: float
) -> S3RequestError:
    """The error of a request that failed for good; ``what`` names verb, place and server."""
    tried = f"tried {num_tries} times in {elapsed_seconds:.0f} s, " if failure.is_temporary else ""
    return S3RequestError(f"{what}: {tried}{failure}; {failure.advice}", failure.kind)


def _kind_of(error: Exception, text: str) -> FailureKind:
    found = _STATUS.search(text)
    status = int(found.group(1)) if found else None
    if "NoSuchBucket" in text:
        return FailureKind.NO_BUCKET
    if _INSTANCE_METADATA_ADDRESS in text or "Missing SecretAccessKey" in text:
        return FailureKind.NO_CREDENTIALS
    if isinstance(error, FileNotFoundError):
        return FailureKind.NOT_FOUND
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return FailureKind.DENIED
    if status == _CONFLICT:
        return FailureKind.CONFLICT
    if isinstance(error, AlreadyExistsError):
        return FailureKind.EXISTS
    if isinstance(error, PreconditionError) or status == _RANGE_NOT_SATISFIABLE:
        return FailureKind.CHANGED
    return _kind_of_status(error, text, status)


def _kind_of_status(error: Exception, text: str, status: int | None) -> FailureKind:
    """Without a status the connection failed: refused, cut, timed out."""
    if status is not None:
        is_temporary = status in _TEMPORARY_STATUSES
        return FailureKind.TEMPORARY if is_temporary else FailureKind.REFUSED
    is_ours = isinstance(error, ValueError) or "builder error" in text
    return FailureKind.REFUSED if is_ours else FailureKind.TEMPORARY


def _detail_of(text: str) -> str:
    code, message, status = _CODE.search(text), _MESSAGE.search(text), _STATUS.search(text)
    if code is not None:
        return f"{code.group(1)}: {message.group(1)}" if message else code.group(1)
    if status is not None:
        text = text[status.start() :]
    elif " - " in text:
        text = text.partition(" - ")[2]
    return " ".join(text.split()).rstrip(": ")[:_MAX_DETAIL_LENGTH]
