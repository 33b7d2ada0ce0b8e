"""The tools are scripts, found by path as ``python tools/NAME.py`` finds them."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The tiny model that ships with the project."""
    return ROOT / "models" / "tiny"
