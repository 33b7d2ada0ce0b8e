"""Real runs of models that are fetched: from a bucket and from a hub, stopped, resumed, offline."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.hub_server import HubRepository, HubServer
from kit.jobs import JobFolder, answer_text, text_lines
from kit.processes import RunningJob
from pipemax_worker.dataset.s3_store import S3Store, open_s3

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"
QUICKSTART = ROOT / "manifests" / "examples" / "quickstart" / "prompts.jsonl"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for models; nothing of the tester's is used."""
    home = tmp_path / "home"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("PIPEMAX_STORE_RETRY_SECONDS", "5")
    for variable in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "PIPEMAX_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    return home


@pytest.fixture
def hub(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({"org/tiny": HubRepository.of(model_folder)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def bucket(s3_bucket: str) -> S3Store:
    """With models/tiny in it."""
    store = open_s3(s3_bucket)
    for path in TINY.iterdir():
        store.put(f"models/tiny/{path.name}", path.read_bytes())
    return store


def run_in(folder: Path, lines: list[bytes], model: dict[str, Any]) -> dict[str, str]:
    """The answers of a job of its own, by id."""
    folder.mkdir()
    job = JobFolder(folder, Path("unused"))
    job.write_input(lines)
    job.write({"model": {"name": "tiny", "aliases": ["tiny-sorter"], **model}})
    assert job.run("--quiet") == 0
    return {custom_id: answer_text(record) for custom_id, record in job.by_id().items()}


def test_a_model_in_a_bucket_and_a_second_job_without_a_network(
    bucket: S3Store, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = QUICKSTART.read_bytes().splitlines()[:6]
    uri = f"{bucket.place.rstrip('/')}/models/tiny/"
    first = run_in(tmp_path / "first", lines, {"uri": uri})
    assert first == run_in(tmp_path / "local", lines, {"uri": str(TINY)})
    assert len(list((cache / "pipemax-models").glob("*/*/model.safetensors"))) == 1
    monkeypatch.setenv("PIPEMAX_OFFLINE", "1")
    assert run_in(tmp_path / "offline", lines, {"uri": uri}) == first


def test_a_hub_id_and_a_second_job_without_a_network(
    hub: HubServer, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = text_lines(6)
    first = run_in(tmp_path / "first", lines, {"uri": "org/tiny", "revision": "main"})
    assert first == run_in(tmp_path / "local", lines, {"uri": str(model_folder)})
    hub.stop()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_in(tmp_path / "offline", lines, {"uri": "org/tiny"}) == first


def test_ctrl_c_during_a_download_keeps_it_and_the_same_command_goes_on(
    hub: HubServer, job: JobFolder, cache: Path
) -> None:
    weights = hub.repositories["org/tiny"].files
    size_bytes = sum(len(c) for name, c in weights.items() if name.endswith(".safetensors"))
    hub.mischief.hold_after_bytes = size_bytes // 2
    job.write_input(text_lines(6))
    job.write({"model.uri": "org/tiny"})
    with RunningJob(job) as run:
        hub.wait_until_holding()
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 75
        assert "stopped by SIGINT" in run.said[-1]
        run.wait_until_gone()
    assert list(cache.glob("hub/*/blobs/*.pipemax-partial"))
    assert not job.output.exists()
    hub.release()
    assert job.run() == 0
    assert len(job.by_id()) == 6
    assert hub.bytes_sent < 1.6 * size_bytes
    assert not list(cache.glob("hub/*/blobs/*.pipemax-partial"))


def test_a_hub_that_is_gone_and_a_model_that_is_not_cached(
    hub: HubServer, job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEMAX_STORE_RETRY_SECONDS", "0")
    hub.stop()
    job.write_input(text_lines(1))
    job.write({"model.uri": "org/tiny"})
    assert job.run() == 74
    monkeypatch.setenv("PIPEMAX_OFFLINE", "1")
    assert job.run() == 66
    assert not job.output.exists()
