"""Which failures are worth another try, and what each says."""

from __future__ import annotations

import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from pipemax_worker.dataset.s3_failures import Failure, FailureKind, classify_failure

_SAID = "Generic S3 error: Error performing PUT http://server/bucket/key in 3ms - "


def _status(status: str, body: str = "") -> str:
    return f"{_SAID}Server returned non-2xx status code: {status}: {body}\n\nDebug source:\nnoise"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(_status("404 Not Found")), FailureKind.NOT_FOUND),
        (
            FileNotFoundError(_status("404 Not Found", "<Code>NoSuchBucket</Code>")),
            FailureKind.NO_BUCKET,
        ),
        (PermissionDeniedError(_status("403 Forbidden")), FailureKind.DENIED),
        (UnauthenticatedError(_status("401 Unauthorized")), FailureKind.DENIED),
        (AlreadyExistsError(_status("412 Precondition Failed")), FailureKind.EXISTS),
        (AlreadyExistsError(_status("409 Conflict")), FailureKind.CONFLICT),
        (PreconditionError(_status("412 Precondition Failed")), FailureKind.CHANGED),
        (GenericError(_status("416 Range Not Satisfiable")), FailureKind.CHANGED),
        (GenericError(_status("500 Internal Server Error")), FailureKind.TEMPORARY),
        (GenericError(_status("503 Slow Down")), FailureKind.TEMPORARY),
        (GenericError(_status("429 Too Many Requests")), FailureKind.TEMPORARY),
        (GenericError(_status("400 Bad Request")), FailureKind.REFUSED),
        (GenericError(_status("501 Not Implemented")), FailureKind.REFUSED),
        (GenericError(f"{_SAID}HTTP error: error sending request"), FailureKind.TEMPORARY),
        (GenericError(f"{_SAID}HTTP error: operation timed out"), FailureKind.TEMPORARY),
        (GenericError(f"{_SAID}HTTP error: builder error"), FailureKind.REFUSED),
        (ValueError("Could not parse path"), FailureKind.REFUSED),
        (
            GenericError("Error performing PUT http://169.254.169.254/latest/api/token in 1s"),
            FailureKind.NO_CREDENTIALS,
        ),
    ],
)
def test_the_kind_of_a_failure(error: Exception, kind: FailureKind) -> None:
    assert classify_failure(error).kind is kind


def test_only_what_may_pass_is_tried_again() -> None:
    temporary = {kind for kind in FailureKind if Failure(kind, "").is_temporary}
    assert temporary == {FailureKind.TEMPORARY, FailureKind.CONFLICT}


def test_a_failure_says_what_the_server_said() -> None:
    body = "<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
    said = str(classify_failure(GenericError(_status("503 Slow Down", body))))
    assert said == "the server does not answer as it should (SlowDown: Reduce your rate)"
    said = str(classify_failure(GenericError(_status("502 Bad Gateway", "<html>" + "x" * 900))))
    assert "status code: 502 Bad Gateway: <html>xxx" in said
    assert len(said) < 400
    assert "HTTP error: error sending request" in str(
        classify_failure(GenericError(f"{_SAID}HTTP error: error sending request"))
    )
