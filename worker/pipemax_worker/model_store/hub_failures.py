"""What a failed request to a hub means: is the model missing, may we not have it, or is it only
out of reach for now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipemax_worker.errors import ModelDownloadError, ModelNotFoundError, PipemaxError
from pipemax_worker.model_store.models import HubModel
from pipemax_worker.model_store.source import SourceUnavailableError

# The HTTP library is httpx for huggingface_hub 1 and httpx2 for 2; this is its HTTPError.
_HTTP_ERROR = cast(type[Exception], HfHubHTTPError.__bases__[0])
_STATUSES_WITHOUT_RIGHT = (401, 403)
_TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_MAX_DETAIL_LENGTH = 200


@contextlib.contextmanager
def hub_errors(model: HubModel, endpoint: str) -> Iterator[None]:
    """Inside, what huggingface_hub raises becomes one of ours, which says what to do."""
    try:
        yield
    except (_HTTP_ERROR, OSError, EntryNotFoundError, HFValidationError) as error:
        raise translate_hub_error(error, model, endpoint) from error


def translate_hub_error(error: Exception, model: HubModel, endpoint: str) -> PipemaxError:
    """Pure: ModelNotFoundError, SourceUnavailableError or ModelDownloadError."""
    place = f"spec.model.uri: {model.repo_id} at {endpoint}"
    if isinstance(error, OfflineModeIsEnabled):
        return ModelNotFoundError(f"{place}: the hub library is in offline mode (HF_HUB_OFFLINE)")
    missing = _why_missing(error, model, endpoint)
    if missing is not None:
        return ModelNotFoundError(f"{place}: {missing}")
    status = _status(error)
    if status is None or status in _TEMPORARY_STATUSES:
        return SourceUnavailableError(
            f"{place}: the hub does not answer as it should ({_detail(error)}); check that it can "
            "be reached (HF_ENDPOINT names another one), then run again: what was fetched is kept"
            f"{_no_folder(model)}"
        )
    return ModelDownloadError(f"{place}: the hub refuses the request ({_detail(error)})")


def _why_missing(error: Exception, model: HubModel, endpoint: str) -> str | None:
    """None for what is no matter of names and rights."""
    if isinstance(error, HFValidationError):
        return f"no hub id: {_detail(error)}"
    if isinstance(error, GatedRepoError):
        return (
            f"the model is gated: accept its terms at {endpoint}/{model.repo_id}, and set HF_TOKEN "
            "to a token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"no revision {model.revision!r}; check spec.model.revision"
    if isinstance(error, DisabledRepoError):
        return "the hub has disabled the model; choose another one"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such model, or a private one: check the name and HF_TOKEN{_no_folder(model)}"
    if _status(error) in _STATUSES_WITHOUT_RIGHT:
        return "access is denied: set HF_TOKEN to a token that may read the model"
    if isinstance(error, EntryNotFoundError) or _status(error) == 404:
        return f"a file of the model is gone ({_detail(error)}); run again"
    return None


def _no_folder(model: HubModel) -> str:
    """A path that is misspelt looks like a hub id."""
    return "" if model.missing_path is None else f"; nor is there a folder {model.missing_path}"


def _status(error: Exception) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _detail(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:_MAX_DETAIL_LENGTH]
