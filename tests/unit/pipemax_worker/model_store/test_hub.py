"""A hub over HTTP: what is listed, and bytes from any offset on."""

from __future__ import annotations

import pytest
from kit.hub_server import HubServer
from kit.remote_models import REPO_ID
from pipemax_worker.errors import ModelDownloadError, ModelNotFoundError, PipemaxError
from pipemax_worker.model_store.checksum import ChecksumKind
from pipemax_worker.model_store.hub import HubSource
from pipemax_worker.model_store.models import HubModel, RemoteFile
from pipemax_worker.model_store.source import SourceUnavailableError


@pytest.fixture
def source(environment: dict[str, str]) -> HubSource:
    return HubSource(HubModel(REPO_ID), environment)


def weights_of(source: HubSource) -> RemoteFile:
    return next(f for f in source.list_files().files if f.name == "model.safetensors")


def read(source: HubSource, file: RemoteFile, offset: int = 0) -> bytes:
    return b"".join(source.read("main", file, offset))


def test_files_with_sizes_and_hashes(source: HubSource, hub: HubServer) -> None:
    hub.repositories[REPO_ID].files["onnx/model.onnx"] = b"in a folder of its own"
    listing = source.list_files()
    assert listing.version == "c" * 40
    files = {file.name: file for file in listing.files}
    assert set(files) == set(hub.repositories[REPO_ID].files) - {"onnx/model.onnx"}
    for name, file in files.items():
        assert file.checksum is not None
        assert file.size_bytes == len(hub.repositories[REPO_ID].files[name])
        assert file.checksum.hex_digest == file.etag == hub.repositories[REPO_ID].etag(name)
    kinds = {name: file.checksum and file.checksum.kind for name, file in files.items()}
    assert kinds["model.safetensors"] is ChecksumKind.SHA256
    assert kinds["config.json"] is ChecksumKind.GIT_SHA1
    assert source.place == f"{REPO_ID} from {hub.endpoint}"


def test_bytes_from_an_offset(source: HubSource, hub: HubServer) -> None:
    content = hub.repositories[REPO_ID].files["model.safetensors"]
    file = weights_of(source)
    assert read(source, file) == content
    sent = hub.bytes_sent
    assert read(source, file, 300_000) == content[300_000:]
    assert hub.bytes_sent - sent == len(content) - 300_000


def test_a_server_that_passes_over_ranges(source: HubSource, hub: HubServer) -> None:
    hub.mischief.ignores_ranges = True
    content = hub.repositories[REPO_ID].files["model.safetensors"]
    assert read(source, weights_of(source), 123_456) == content[123_456:]


def test_a_connection_that_breaks_gives_what_came(source: HubSource, hub: HubServer) -> None:
    hub.mischief.cut_after_bytes = 100_000
    received: list[bytes] = []
    with pytest.raises(SourceUnavailableError, match="does not answer as it should"):
        received.extend(source.read("main", weights_of(source), 0))
    assert sum(map(len, received)) == 100_000


def test_a_gated_model_needs_the_right_token(
    source: HubSource, hub: HubServer, environment: dict[str, str]
) -> None:
    hub.repositories[REPO_ID].token = "hf_right"
    file = weights_of(source)
    with pytest.raises(ModelNotFoundError, match=r"gated: accept its terms at .* HF_TOKEN"):
        read(source, file)
    allowed = HubSource(HubModel(REPO_ID), {**environment, "HF_TOKEN": "hf_right"})
    assert len(read(allowed, file)) == file.size_bytes


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, ModelNotFoundError),
        (403, ModelNotFoundError),
        (404, ModelNotFoundError),
        (400, ModelDownloadError),
        (429, SourceUnavailableError),
        (500, SourceUnavailableError),
        (503, SourceUnavailableError),
    ],
)
def test_answers_of_a_server(
    source: HubSource, hub: HubServer, status: int, error: type[PipemaxError]
) -> None:
    file = weights_of(source)
    hub.mischief.statuses = [status]
    with pytest.raises(error, match=REPO_ID) as raised:
        read(source, file)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (HubModel("org/other"), "no such model, or a private one"),
        (HubModel(REPO_ID, "v9"), r"no revision 'v9'; check spec\.model\.revision"),
        (HubModel("org/..bad"), "no hub id"),
    ],
)
def test_models_that_are_not_there(
    environment: dict[str, str], model: HubModel, named: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=named):
        HubSource(model, environment).list_files()


def test_a_server_that_is_gone(source: HubSource, hub: HubServer) -> None:
    hub.stop()
    with pytest.raises(SourceUnavailableError, match="check that it can be reached"):
        source.list_files()
