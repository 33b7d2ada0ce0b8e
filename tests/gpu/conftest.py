"""Tests of the CUDA path: deselected where no GPU is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipemax_worker.pipeline.gpus import count_gpus


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All tests of this folder are marked ``gpu``, and left out without one."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker("gpu")
    if count_gpus() == 0 and ours:
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)
