"""A model from a hub, to a folder: once, whole, and whatever happens in between."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from kit.hub_server import HubRepository, HubServer
from kit.remote_models import REPO_ID, FetchingProcess, small_model
from pipemax_worker.errors import ModelDownloadError, ModelNotFoundError, StoppedError
from pipemax_worker.model_store.fetch import (
    DownloadPlan,
    FetchSettings,
    fetch_model,
    locate_model,
)
from pipemax_worker.model_store.models import CachedModel, HubModel
from pipemax_worker.model_store.progress import DownloadProgress
from pipemax_worker.model_store.watch import Watch

MODEL = HubModel(REPO_ID)
FETCHED = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


def weight_bytes(hub: HubServer) -> int:
    return len(hub.repositories[REPO_ID].files["model.safetensors"])


def check_files(folder: Path, hub: HubServer) -> None:
    """Everything needed, byte for byte, and nothing else."""
    wanted = {n: c for n, c in hub.repositories[REPO_ID].files.items() if n != "README.md"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted


def with_variables(settings: FetchSettings, **variables: str) -> FetchSettings:
    return dataclasses.replace(settings, environment={**settings.environment, **variables})


def test_once_and_only_what_is_needed(hub: HubServer, settings: FetchSettings) -> None:
    shown: list[DownloadProgress] = []
    found = fetch_model(MODEL, settings, Watch(show_progress=shown.append))
    check_files(found.folder, hub)
    assert set(hub.requested_files()) == FETCHED
    assert (
        shown[-1].bytes_done
        == shown[-1].bytes_total
        == sum(len(hub.repositories[REPO_ID].files[name]) for name in FETCHED)
    )
    hub.requests.clear()
    assert fetch_model(MODEL, settings) == found
    assert hub.requested_files() == [], "the second job downloads nothing"


def test_shards(hub: HubServer, settings: FetchSettings) -> None:
    hub.repositories[REPO_ID].files = small_model(num_shards=5)
    hub.repositories[REPO_ID].files["consolidated.safetensors"] = b"the same again"
    folder = fetch_model(MODEL, settings).folder
    del hub.repositories[REPO_ID].files["consolidated.safetensors"]
    check_files(folder, hub)


def test_files_of_the_same_content_are_one(hub: HubServer, settings: FetchSettings) -> None:
    files = hub.repositories[REPO_ID].files
    files["tokenizer_config.json"] = files["tokenizer.json"] = files["config.json"]
    shown: list[DownloadProgress] = []
    check_files(fetch_model(MODEL, settings, Watch(show_progress=shown.append)).folder, hub)
    assert sorted(hub.requested_files()) == ["config.json", "model.safetensors"]
    assert shown[-1].bytes_done == shown[-1].bytes_total


def test_locating_fetches_nothing(hub: HubServer, settings: FetchSettings) -> None:
    plan = locate_model(MODEL, settings)
    assert isinstance(plan, DownloadPlan)
    assert plan.bytes_missing == plan.needed.total_bytes
    assert plan.place == f"{REPO_ID} from {hub.endpoint}"
    assert hub.requested_files() == []
    assert settings.cache_folder is not None
    assert not settings.cache_folder.exists()
    found = fetch_model(MODEL, settings)
    assert locate_model(MODEL, settings) == found


def test_a_kill_in_the_middle_costs_nothing_that_was_fetched(
    hub: HubServer, settings: FetchSettings
) -> None:
    size_bytes = weight_bytes(hub)
    hub.mischief.hold_after_bytes = size_bytes // 2
    assert settings.cache_folder is not None
    process = FetchingProcess(MODEL, settings.cache_folder, settings.environment)
    hub.wait_until_holding()
    process.kill()
    hub.release()
    assert isinstance(locate_model(MODEL, settings), DownloadPlan), "half a model is none"
    check_files(fetch_model(MODEL, settings).folder, hub)
    assert size_bytes <= hub.bytes_sent < 1.6 * size_bytes


def test_two_processes_fetch_it_once(hub: HubServer, settings: FetchSettings) -> None:
    size_bytes = weight_bytes(hub)
    hub.mischief.hold_after_bytes = size_bytes // 2
    assert settings.cache_folder is not None
    first = FetchingProcess(MODEL, settings.cache_folder, settings.environment)
    hub.wait_until_holding()
    second = FetchingProcess(MODEL, settings.cache_folder, settings.environment)
    waiting = second.wait_for_line()
    assert waiting.startswith(f"waiting for process {first.process.pid} on ")
    hub.release()
    [folder] = first.end()
    assert second.end() == [folder]
    check_files(Path(folder), hub)
    assert hub.bytes_sent == size_bytes


def test_a_connection_that_breaks_is_taken_up_again(
    hub: HubServer, settings: FetchSettings
) -> None:
    hub.mischief.cut_after_bytes = 150_000
    check_files(fetch_model(MODEL, settings).folder, hub)
    assert hub.bytes_sent == weight_bytes(hub)


def test_a_flipped_byte_is_found_and_fetched_again(hub: HubServer, settings: FetchSettings) -> None:
    hub.mischief.num_flips = 1
    check_files(fetch_model(MODEL, settings).folder, hub)
    assert hub.bytes_sent == 2 * weight_bytes(hub)


def test_bytes_that_are_flipped_each_time(hub: HubServer, settings: FetchSettings) -> None:
    hub.mischief.num_flips = 100
    with pytest.raises(ModelDownloadError, match=r"model\.safetensors: fetched 2 times"):
        fetch_model(MODEL, settings)
    hub.mischief.num_flips = 0
    check_files(fetch_model(MODEL, settings).folder, hub)


def test_a_stop_in_the_middle_keeps_what_was_fetched(
    hub: HubServer, settings: FetchSettings
) -> None:
    hub.mischief.hold_after_bytes = weight_bytes(hub) // 2

    def check_stop() -> None:
        if hub.is_holding.is_set():
            hub.release()
            raise StoppedError("stopped by SIGINT")

    with pytest.raises(StoppedError):
        fetch_model(MODEL, settings, Watch(check_stop=check_stop))
    asked_bytes = hub.bytes_asked
    plan = locate_model(MODEL, settings)
    assert isinstance(plan, DownloadPlan)
    assert plan.bytes_missing < weight_bytes(hub)
    check_files(fetch_model(MODEL, settings).folder, hub)
    assert hub.bytes_asked - asked_bytes == plan.bytes_missing


def test_a_model_that_is_refused_costs_no_weights(hub: HubServer, settings: FetchSettings) -> None:
    def refuse(folder: Path) -> None:
        assert {path.name for path in folder.iterdir()} == FETCHED - {"model.safetensors"}
        raise ModelNotFoundError("cannot be run")

    with pytest.raises(ModelNotFoundError, match="cannot be run"):
        fetch_model(MODEL, settings, check_small_files=refuse)
    assert hub.bytes_sent == 0
    assert isinstance(locate_model(MODEL, settings), DownloadPlan)


class TestWithoutANetwork:
    def test_what_is_cached_is_used(self, hub: HubServer, settings: FetchSettings) -> None:
        found = fetch_model(MODEL, settings)
        hub.requests.clear()
        for variable in ("PIPEMAX_OFFLINE", "HF_HUB_OFFLINE"):
            assert fetch_model(MODEL, with_variables(settings, **{variable: "1"})) == found
        assert hub.requests == []

    def test_nothing_is_cached(self, hub: HubServer, settings: FetchSettings) -> None:
        with pytest.raises(ModelNotFoundError, match=r"PIPEMAX_OFFLINE=1 forbids to fetch it"):
            fetch_model(MODEL, with_variables(settings, PIPEMAX_OFFLINE="1"))
        assert hub.requests == []

    def test_a_server_that_is_gone_is_an_error(
        self, hub: HubServer, settings: FetchSettings
    ) -> None:
        hub.stop()
        said: list[str] = []
        with pytest.raises(ModelDownloadError, match="check that it can be reached"):
            fetch_model(MODEL, settings, Watch(say=said.append))
        assert "trying again for 0 s" in said[0]

    def test_unless_the_model_is_cached(self, hub: HubServer, settings: FetchSettings) -> None:
        found = fetch_model(MODEL, settings)
        hub.stop()
        said: list[str] = []
        assert fetch_model(MODEL, settings, Watch(say=said.append)) == found
        assert f"the cached model is used: {found.folder}" in said[0]

    def test_a_commit_that_is_cached_needs_no_question(
        self, hub: HubServer, settings: FetchSettings
    ) -> None:
        pinned = HubModel(REPO_ID, "c" * 40)
        folder = fetch_model(pinned, settings).folder
        hub.requests.clear()
        assert fetch_model(pinned, settings) == CachedModel(folder, "c" * 40, is_pinned=True)
        assert hub.requests == []


def test_a_branch_that_moved_is_fetched_and_shares_what_is_alike(
    hub: HubServer, settings: FetchSettings
) -> None:
    old = fetch_model(MODEL, settings)
    files = hub.repositories[REPO_ID].files | {"tokenizer.json": b'{"new": true}'}
    hub.repositories[REPO_ID] = HubRepository(files, commit="d" * 40)
    hub.requests.clear()
    new = fetch_model(MODEL, settings)
    check_files(new.folder, hub)
    assert (old.version, new.version) == ("c" * 40, "d" * 40)
    assert hub.requested_files() == ["tokenizer.json"]


def test_a_cached_model_that_lost_its_weights_is_completed(
    hub: HubServer, settings: FetchSettings
) -> None:
    folder = fetch_model(MODEL, settings).folder
    (folder / "model.safetensors").resolve().unlink()
    with pytest.raises(ModelNotFoundError, match="not complete in the cache"):
        fetch_model(MODEL, with_variables(settings, PIPEMAX_OFFLINE="1"))
    check_files(fetch_model(MODEL, settings).folder, hub)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (HubModel("org/other", missing_path=Path("/jobs/org/other")), "folder /jobs/org/other"),
        (HubModel(REPO_ID, "v2"), "no revision 'v2'"),
    ],
)
def test_what_is_not_there(settings: FetchSettings, model: HubModel, named: str) -> None:
    with pytest.raises(ModelNotFoundError, match=named):
        fetch_model(model, settings)


def test_gated(hub: HubServer, settings: FetchSettings) -> None:
    hub.repositories[REPO_ID].token = "hf_x"
    with pytest.raises(ModelNotFoundError, match="accept its terms"):
        fetch_model(MODEL, settings)
    check_files(fetch_model(MODEL, with_variables(settings, HF_TOKEN="hf_x")).folder, hub)


def test_no_room(hub: HubServer, settings: FetchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(ModelDownloadError, match="more is needed"):
        fetch_model(MODEL, settings)
    assert hub.requested_files() == []


def test_settings_that_cannot_be_read(settings: FetchSettings) -> None:
    with pytest.raises(ModelDownloadError, match="PIPEMAX_STORE_RETRY_SECONDS='soon'"):
        fetch_model(MODEL, with_variables(settings, PIPEMAX_STORE_RETRY_SECONDS="soon"))
