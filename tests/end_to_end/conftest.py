"""A tiny model with random weights that really runs, and job folders for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.jobs import JobFolder
from kit.runnable_model import write_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def job(tmp_path: Path, model_folder: Path) -> JobFolder:
    return JobFolder(tmp_path, model_folder)
