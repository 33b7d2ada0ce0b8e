"""What the command line adds to a job file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunOptions:
    """``mounts``: claim name to folder. ``port``: None serves nothing, 0 takes a free one.
    ``retry_failed``: run again what failed, and what is missing."""

    mounts: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    address: str = "127.0.0.1"
    quiet: bool = False
    retry_failed: bool = False
