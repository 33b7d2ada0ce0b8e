"""Where a model comes from: what is there, and its bytes from any offset on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pipemax_worker.errors import ModelDownloadError
from pipemax_worker.model_store.models import Listing, RemoteFile


class SourceUnavailableError(ModelDownloadError):
    """The source does not answer as it should; trying again may help."""


class ModelSource(Protocol):
    """Used from several threads. All methods raise

    - SourceUnavailableError: no connection, or an answer that may be another one soon;
    - ModelNotFoundError: no such model, revision or file, or no right to read it;
    - ModelDownloadError: everything else.
    """

    @property
    def place(self) -> str:
        """The source as messages name it."""
        ...

    def list_files(self) -> Listing:
        """The files in the model's folder, without those in folders below it."""
        ...

    def read(self, version: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The file's bytes from ``offset`` on; may end early without an error."""
        ...
