"""The same from a bucket: fetched once, gone on with, and never mixed with a newer upload."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from kit.remote_models import FetchingProcess, small_model
from kit.s3_proxy import Fault, FaultyProxy
from kit.s3_server import S3Server
from pipemax_worker.dataset.s3_store import S3Store, open_s3
from pipemax_worker.errors import ModelDownloadError, ModelNotFoundError
from pipemax_worker.model_store import s3
from pipemax_worker.model_store.fetch import (
    DownloadPlan,
    FetchSettings,
    fetch_model,
    locate_model,
)
from pipemax_worker.model_store.models import S3Model
from pipemax_worker.model_store.watch import Watch

PATIENCE_SECONDS = 60.0


@pytest.fixture
def store(s3_bucket: str) -> S3Store:
    store = open_s3(f"{s3_bucket}/models/small")
    for name, content in small_model().items():
        store.put(name, content)
    return store


@pytest.fixture
def settings(s3_bucket: str, tmp_path: Path) -> FetchSettings:
    return FetchSettings(tmp_path, {**os.environ, "PIPEMAX_STORE_RETRY_SECONDS": "0.5"})


def through(proxy: FaultyProxy, settings: FetchSettings, **variables: str) -> FetchSettings:
    environment = {**settings.environment, "AWS_ENDPOINT_URL": proxy.endpoint, **variables}
    return FetchSettings(settings.cache_folder, environment)


def model_of(store: S3Store) -> S3Model:
    return S3Model(f"{store.place}/")


def check_files(folder: Path, files: dict[str, bytes]) -> None:
    wanted = {name: content for name, content in files.items() if name != "README.md"}
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}
    assert found == wanted


def weights_read(proxy: FaultyProxy) -> int:
    """How often weights were asked for."""
    return sum(one.startswith("GET") and ".safetensors" in one for one in proxy.requests)


def test_once(s3_server: S3Server, store: S3Store, settings: FetchSettings) -> None:
    with FaultyProxy(s3_server.endpoint) as proxy:
        watched = through(proxy, settings)
        plan = locate_model(model_of(store), watched)
        assert isinstance(plan, DownloadPlan)
        assert weights_read(proxy) == 0
        found = fetch_model(model_of(store), watched)
        check_files(found.folder, small_model())
        assert weights_read(proxy) == 1
        assert fetch_model(model_of(store), watched) == found
        assert weights_read(proxy) == 1, "the second job downloads nothing"
        proxy.requests.clear()
        offline = through(proxy, settings, PIPEMAX_OFFLINE="1")
        assert fetch_model(model_of(store), offline) == found
        assert proxy.requests == []


def test_another_upload_is_another_version(store: S3Store, settings: FetchSettings) -> None:
    first = fetch_model(model_of(store), settings)
    files = small_model(seed=1)
    for name, content in files.items():
        store.put(name, content)
    second = fetch_model(model_of(store), settings)
    check_files(second.folder, files)
    check_files(first.folder, small_model())
    offline = FetchSettings(settings.cache_folder, {**settings.environment, "PIPEMAX_OFFLINE": "1"})
    assert fetch_model(model_of(store), offline) == second


class FailingProxy(FaultyProxy):
    """Its server fails from the fourth request for weights on, until it ``is_well``."""

    is_well = False

    def fault_for(self, method: str, path: str) -> Fault | None:
        fault = super().fault_for(method, path)
        return Fault.UNAVAILABLE if weights_read(self) > 3 and not self.is_well else fault


def test_a_kill_in_the_middle_costs_nothing_that_was_fetched(
    store: S3Store, settings: FetchSettings, s3_server: S3Server
) -> None:
    """Weights of six ranges; the process is killed while the server fails after some of them."""
    weights = os.urandom(6 * s3._RANGE_BYTES)
    store.put("model.safetensors", weights)
    assert settings.cache_folder is not None
    with FailingProxy(s3_server.endpoint) as proxy:
        watched = through(proxy, settings, PIPEMAX_STORE_RETRY_SECONDS="600")
        process = FetchingProcess(model_of(store), settings.cache_folder, watched.environment)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while weights_read(proxy) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        [partial] = settings.cache_folder.glob("*/*/*/model.safetensors.partial")
        while partial.stat().st_size < 2 * s3._RANGE_BYTES:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        proxy.is_well = True
        kept_bytes = partial.stat().st_size
        assert kept_bytes % s3._RANGE_BYTES == 0
        proxy.requests.clear()
        folder = fetch_model(model_of(store), watched).folder
        assert (folder / "model.safetensors").read_bytes() == weights
        assert weights_read(proxy) == 6 - kept_bytes // s3._RANGE_BYTES


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.CUT, Fault.CUT_BODY])
def test_a_server_that_fails_for_a_while(
    store: S3Store, settings: FetchSettings, s3_server: S3Server, fault: Fault
) -> None:
    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.faults.extend([fault, None, fault, fault, None, fault])
        patient = through(proxy, settings, PIPEMAX_STORE_RETRY_SECONDS="60")
        check_files(fetch_model(model_of(store), patient).folder, small_model())


def test_a_server_that_fails_for_good(
    store: S3Store, settings: FetchSettings, s3_server: S3Server
) -> None:
    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.constant_fault = Fault.UNAVAILABLE
        with pytest.raises(ModelDownloadError, match="check that the server can be reached"):
            fetch_model(model_of(store), through(proxy, settings))
        proxy.constant_fault = Fault.DENIED
        with pytest.raises(ModelNotFoundError, match="access is denied"):
            fetch_model(model_of(store), through(proxy, settings))


def test_a_server_that_is_gone_does_not_matter_to_who_has_the_model(
    store: S3Store, settings: FetchSettings, s3_server: S3Server
) -> None:
    with FaultyProxy(s3_server.endpoint) as proxy:
        watched = through(proxy, settings)
        found = fetch_model(model_of(store), watched)
        proxy.constant_fault = Fault.CUT
        said: list[str] = []
        assert fetch_model(model_of(store), watched, Watch(say=said.append)) == found
    assert "the cached model is used" in said[0]


def test_checksums_beside_the_model_are_believed(store: S3Store, settings: FetchSettings) -> None:
    digest = hashlib.sha256(b"other weights").hexdigest()
    store.put("SHA256SUMS", f"{digest}  model.safetensors\n".encode())
    with pytest.raises(ModelDownloadError, match=r"model\.safetensors: fetched 2 times"):
        fetch_model(model_of(store), settings)
    digest = hashlib.sha256(small_model()["model.safetensors"]).hexdigest()
    store.put("SHA256SUMS", f"{digest}  model.safetensors\n".encode())
    check_files(fetch_model(model_of(store), settings).folder, small_model())


def test_an_empty_key_is_no_model(store: S3Store, settings: FetchSettings) -> None:
    with pytest.raises(ModelNotFoundError, match="no files there"):
        fetch_model(S3Model(f"{store.place}/elsewhere"), settings)
