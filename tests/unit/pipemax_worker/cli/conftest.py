"""A job that a fake engine has run: for the commands that read what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, write_hollow_model
from pipemax_worker.runner import run


@pytest.fixture(scope="session")
def hollow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hollow_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def job(tmp_path: Path, hollow_model: Path) -> JobFolder:
    return JobFolder(tmp_path, hollow_model)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> FakeSessions:
    """Runs in this test have a fake engine."""
    fake = FakeSessions()
    monkeypatch.setattr(run, "open_session", fake)
    return fake
