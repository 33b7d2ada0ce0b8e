"""What the environment says about models from afar: is there a network, where is the cache.

Read when it is asked for, not at import. The hub's own variables count, as for other programs:
``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_CACHE``, ``HF_HOME``,
``XDG_CACHE_HOME``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from pipemax_worker.dataset.s3_settings import CREDENTIALS_FOLDER_VARIABLE

OFFLINE_VARIABLES = ("PIPEMAX_OFFLINE", "HF_HUB_OFFLINE")
DEFAULT_ENDPOINT = "https://huggingface.co"
S3_FOLDER = "pipemax-models"

_TRUE_WORDS = ("1", "on", "yes", "true")


def offline_variable(environment: Mapping[str, str]) -> str | None:
    """The variable that forbids network requests for models, as ``NAME=value``; None: allowed."""
    for name in OFFLINE_VARIABLES:
        value = environment.get(name, "")
        if value.strip().lower() in _TRUE_WORDS:
            return f"{name}={value}"
    return None


def hub_endpoint(environment: Mapping[str, str]) -> str:
    """Without a slash at its end."""
    return (environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def hub_token(environment: Mapping[str, str]) -> str | None:
    """From the mounted Secret or the environment; None: the library looks for a saved one."""
    folder = environment.get(CREDENTIALS_FOLDER_VARIABLE)
    if folder:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (Path(folder) / "HF_TOKEN").read_text().strip() or None
    return environment.get("HF_TOKEN", "").strip() or None


def hub_cache_folder(environment: Mapping[str, str]) -> Path:
    """The hub library's own cache folder."""
    if cache := environment.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "huggingface" / "hub"


def s3_cache_folder(environment: Mapping[str, str], cache_folder: Path | None) -> Path:
    """Inside the given cache folder, or beside the hub's own."""
    return (cache_folder or hub_cache_folder(environment).parent) / S3_FOLDER
