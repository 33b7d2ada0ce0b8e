"""What an older version has left in a cluster: its CRD, a job, and what its operator made of it.

Written once by the code before NVMe folders had mounts of their own; never by hand. When a version
is released, its own take their place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]


def _load(name: str) -> Document:
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    document: Document = yaml.safe_load(text)
    return document


def load_crd() -> Document:
    """Without descriptions."""
    return _load("crd")


def load_job() -> Document:
    """As its author wrote it: most fields of that version."""
    return _load("inferencejob")


def load_stored_job() -> Document:
    """The same as the API server kept it: with that version's defaults."""
    return _load("stored")


def load_child() -> Document:
    """The batch/v1 Job of it."""
    return _load("batch_job")
