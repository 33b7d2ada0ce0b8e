"""A model on a hub, through huggingface_hub: its API, tokens, endpoints and errors.

The bytes are asked for by us, range by range. The library would fetch them too
(``snapshot_download``), but its newer versions begin each file anew after an interruption, and
it never compares content with the hash that the hub names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from pipemax_worker.errors import ModelDownloadError
from pipemax_worker.model_store.checksum import Checksum, ChecksumKind
from pipemax_worker.model_store.environment import hub_endpoint, hub_token
from pipemax_worker.model_store.hub_failures import hub_errors
from pipemax_worker.model_store.models import HubModel, Listing, RemoteFile

_TIMEOUT_SECONDS = 15.0
_RANGE_BYTES = 1 << 30
"""Links to a hub's storage expire, and its network serves no file of more than 50 GB in one."""


class HubSource:
    """A :class:`~pipemax_worker.model_store.source.ModelSource`."""

    def __init__(self, model: HubModel, environment: Mapping[str, str]) -> None:
        self._model = model
        self._endpoint = hub_endpoint(environment)
        self._token = hub_token(environment)

    @property
    def place(self) -> str:
        return f"{self._model} from {self._endpoint}"

    def list_files(self) -> Listing:
        with hub_errors(self._model, self._endpoint):
            info = HfApi(endpoint=self._endpoint, token=self._token).model_info(
                self._model.repo_id,
                revision=self._model.revision,
                files_metadata=True,
                timeout=_TIMEOUT_SECONDS,
            )
        if info.sha is None:
            raise ModelDownloadError(f"{self.place}: the hub names no commit; check HF_ENDPOINT")
        files = [_remote_file(sibling, info.sha) for sibling in info.siblings or ()]
        return Listing(tuple(file for file in files if "/" not in file.name), info.sha)

    def read(self, version: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """At most ``_RANGE_BYTES``."""
        url = hf_hub_url(self._model.repo_id, file.name, revision=version, endpoint=self._endpoint)
        headers = {
            **build_hf_headers(token=self._token),
            "Accept-Encoding": "identity",
            "Range": f"bytes={offset}-{min(offset + _RANGE_BYTES, file.size_bytes) - 1}",
        }
        with (
            hub_errors(self._model, self._endpoint),
            get_session().stream(
                "GET", url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True
            ) as response,
        ):
            hf_raise_for_status(response)
            is_whole_file = response.status_code == 200
            chunks = response.iter_bytes()  # as they come: none is lost where the connection breaks
            yield from _without_first(chunks, offset) if is_whole_file else chunks


def _remote_file(sibling: RepoSibling, commit: str) -> RemoteFile:
    """Large files are named by SHA-256, the others by git's hash of the blob."""
    if sibling.lfs is not None:
        digest, kind = sibling.lfs.sha256, ChecksumKind.SHA256
        size_bytes = sibling.lfs.size
    else:
        digest, kind = sibling.blob_id or "", ChecksumKind.GIT_SHA1
        size_bytes = sibling.size or 0
    checksum = Checksum(kind, digest.lower()) if digest else None
    etag = digest or f"{commit}-{sibling.rfilename.replace('/', '-')}"
    return RemoteFile(sibling.rfilename, size_bytes, etag, checksum)


def _without_first(chunks: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    """For a server that passes over the range asked for."""
    for chunk in chunks:
        if len(chunk) > num_bytes:
            yield chunk[num_bytes:]
        num_bytes = max(0, num_bytes - len(chunk))
