"""Turns a place as the runner names it (a path, ``file://``) into a path or a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.errors import OutputError


def open_store(place: str | Path) -> ObjectStore:
    """The store at a path or a ``file://`` URI. Touches nothing: :meth:`ObjectStore.probe` does.

    Raises OutputError for a place that is not on a local (or mounted) file system.
    """
    return LocalStore(local_path(place))


def local_path(place: str | Path) -> Path:
    """The path that ``place`` names. Raises OutputError for schemes other than ``file``."""
    if isinstance(place, Path):
        return place
    parts = urlsplit(place)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if "://" in place:
        raise OutputError(
            f"{place}: only local paths (and file://) can be written by this version; "
            "mount the storage and give its path"
        )
    return Path(place)
