"""From a job's words for its model to a folder, and what the user sees on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.fake_run import FakeSessions, RecordingDisplay
from kit.hub_server import HubRepository, HubServer
from kit.jobs import MODEL_CONFIG, JobFolder, text_lines
from pipemax_worker.errors import (
    JobFileError,
    ModelDownloadError,
    ModelNotFoundError,
    StoppedError,
    UnsupportedModelError,
)
from pipemax_worker.job.load import load_job
from pipemax_worker.model_store.fetch import FetchSettings
from pipemax_worker.model_store.models import HubModel, S3Model
from pipemax_worker.model_store.progress import DownloadProgress
from pipemax_worker.runner.model_provision import (
    describe_progress,
    fetch_settings,
    fetch_with_display,
    resolve_model_source,
)
from pipemax_worker.runner.preparation import fingerprint_of, prepare_job
from pipemax_worker.runner.signals import StopRequest
from pipemax_worker.runner.validation import validate_job

HUB_ID = {"model.uri": "org/hollow", "model.name": "tiny"}
COMMIT = "c" * 40


@pytest.fixture
def hub(hollow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({"org/hollow": HubRepository.of(hollow_model)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("PIPEMAX_STORE_RETRY_SECONDS", "0.5")
        yield server


def source_of(job: JobFolder, changes: dict[str, Any]) -> object:
    job_file = job.write(changes)
    return resolve_model_source(load_job(job_file), job_file, {})


def test_paths_hub_ids_and_buckets(job: JobFolder) -> None:
    assert source_of(job, {}) == job.model_folder
    missing = job.folder / "org" / "hollow"
    assert source_of(job, HUB_ID) == HubModel("org/hollow", None, missing)
    revision = HUB_ID | {"model.revision": "v1"}
    assert source_of(job, revision) == HubModel("org/hollow", "v1", missing)
    assert source_of(job, {"model.uri": "s3://b-1/m/"}) == S3Model("s3://b-1/m/")
    missing.mkdir(parents=True)
    assert source_of(job, HUB_ID) == missing, "an existing path wins"


def test_the_cache_folder_is_a_place(job: JobFolder) -> None:
    def settings_of(cache: str | None, mounts: dict[str, str]) -> FetchSettings:
        job_file = job.write(HUB_ID | ({} if cache is None else {"model.cacheDir": cache}))
        return fetch_settings(load_job(job_file), job_file, mounts)

    assert settings_of(None, {}).cache_folder is None
    assert settings_of("cache", {}).cache_folder == job.folder / "cache"
    assert settings_of("hostPath:///mnt/models", {}).cache_folder == Path("/mnt/models")
    assert settings_of("pvc://disk/models", {"disk": "/d"}).cache_folder == Path("/d/models")
    with pytest.raises(JobFileError, match="--mount disk=PATH"):
        settings_of("pvc://disk/models", {})


def test_progress_in_words() -> None:
    progress = DownloadProgress("org/name from hub", 3 << 30, 12 << 30, 85.34e6, 40.0)
    assert describe_progress(progress) == (
        "fetching org/name from hub: 3.0 GiB of 12.0 GiB, 85.3 MB/s"
    )


def test_a_run_fetches_shows_and_runs(
    job: JobFolder, hub: HubServer, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(3))
    job.write(HUB_ID | {"model.cacheDir": "cache"})
    assert job.run() == 0
    assert len(job.by_id()) == 3
    folder = job.folder / "cache" / "models--org--hollow" / "snapshots" / COMMIT
    said = capsys.readouterr().err
    assert f"model org/hollow: {folder}" in said
    assert "reviews: tiny in float32" in said, "not by the name of a folder in the cache"


def test_a_model_that_cannot_be_run_is_refused_before_its_weights(
    job: JobFolder, hub: HubServer
) -> None:
    config = MODEL_CONFIG | {"architectures": ["GPT2LMHeadModel"]}
    hub.repositories["org/hollow"].files["config.json"] = json.dumps(config).encode()
    job.write_input(text_lines(1))
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel"):
        prepare_job(job.write(HUB_ID), {})
    assert "model.safetensors" not in hub.requested_files()


def test_the_fingerprint_does_not_tell_where_the_model_was(job: JobFolder, hub: HubServer) -> None:
    job.write_input(text_lines(1))
    local = fingerprint_of(prepare_job(job.write(), {}))
    assert fingerprint_of(prepare_job(job.write(HUB_ID), {})) == local
    moved = HubRepository(hub.repositories["org/hollow"].files, commit="d" * 40)
    moved.files["README.md"] = b"a commit that changes nothing a run reads"
    hub.repositories["org/hollow"] = moved
    assert fingerprint_of(prepare_job(job.write(HUB_ID), {})) == local


def test_a_stop_ends_the_fetch(job: JobFolder, hub: HubServer) -> None:
    stop, display = StopRequest(), RecordingDisplay()
    stop.receive("SIGINT")
    job.write_input(text_lines(1))
    with pytest.raises(StoppedError, match="SIGINT"):
        prepare_job(job.write(HUB_ID), {}, fetch_with_display(display, stop))
    assert "model.safetensors" not in hub.requested_files()


def test_what_else_is_wrong_is_found_first(job: JobFolder, hub: HubServer) -> None:
    from pipemax_worker.errors import InputNotFoundError

    with pytest.raises(InputNotFoundError):
        prepare_job(job.write(HUB_ID), {})
    assert hub.requests == []


class TestValidate:
    def validate(self, job: JobFolder, check_lines: bool = False, **changes: Any) -> str:
        job_file = job.write(HUB_ID | changes)
        report = validate_job(job_file, {}, check_places=True, check_lines=check_lines)
        return "\n".join(report.lines)

    def test_says_where_a_model_would_come_from(self, job: JobFolder, hub: HubServer) -> None:
        job.write_input(text_lines(1))
        said = self.validate(job)
        cache = job.folder / "home" / "hub"
        assert f"model     org/hollow from {hub.endpoint}: not on this machine; a run fe" in said
        assert f"into {cache}" in said
        assert f"{job.output}: writable" in said
        assert hub.requested_files() == []
        assert not cache.exists()

    def test_says_that_it_is_cached(self, job: JobFolder, hub: HubServer) -> None:
        job.write_input(text_lines(1))
        folder = prepare_job(job.write(HUB_ID), {}).places.model_folder
        said = self.validate(job, check_lines=True)
        assert f"model     org/hollow: cached in {folder}: LlamaForCausalLM" in said
        assert "1 lines, 0 faulty" in said

    def test_lines_need_the_tokenizer(self, job: JobFolder, hub: HubServer) -> None:
        job.write_input(text_lines(1))
        with pytest.raises(ModelNotFoundError, match="--input needs its tokenizer"):
            self.validate(job, check_lines=True)

    def test_a_model_that_run_would_not_find(self, job: JobFolder, hub: HubServer) -> None:
        job.write_input(text_lines(1))
        with pytest.raises(ModelNotFoundError, match="no such model"):
            self.validate(job, **{"model.uri": "org/other"})
        hub.stop()
        with pytest.raises(ModelDownloadError, match="can be reached"):
            self.validate(job)
