"""A hub with one small model, and settings that reach it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.hub_server import HubRepository, HubServer
from kit.remote_models import REPO_ID, small_model
from pipemax_worker.model_store.fetch import FetchSettings


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({REPO_ID: HubRepository(small_model())}) as server:
        yield server


@pytest.fixture
def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """Nothing of the tester's own: no token, no cache."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "PIPEMAX_STORE_RETRY_SECONDS": "0.5",
    }


@pytest.fixture
def settings(environment: dict[str, str], tmp_path: Path) -> FetchSettings:
    return FetchSettings(tmp_path / "cache", environment)
