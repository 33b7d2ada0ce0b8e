"""Turns a place as the runner names it (a path, ``file://``, ``s3://``) into a path or a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.s3_settings import parse_s3
from pipemax_worker.dataset.s3_store import open_s3
from pipemax_worker.errors import OutputError


def open_store(place: str | Path) -> ObjectStore:
    """The store at a path, a ``file://`` or an ``s3://`` URI; how a bucket is reached is in the
    environment (``s3_settings``). Touches nothing: :meth:`ObjectStore.probe` does.

    Raises OutputError for a place of another scheme, or credentials that cannot be read.
    """
    if isinstance(place, str) and parse_s3(place) is not None:
        return open_s3(place)
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
            f"{place}: expected a path, file:///path or s3://bucket/prefix; mount other storage "
            "and give its path"
        )
    return Path(place)
