"""Caches, endpoints and tokens, as the environment says."""

from pathlib import Path

import pytest
from pipemax_worker.model_store.environment import (
    hub_cache_folder,
    hub_endpoint,
    hub_token,
    offline_variable,
    s3_cache_folder,
)


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1"),
        ({"PIPEMAX_OFFLINE": "true"}, "PIPEMAX_OFFLINE=true"),
        ({"PIPEMAX_OFFLINE": "0", "HF_HUB_OFFLINE": ""}, None),
    ],
)
def test_offline(environment: dict[str, str], variable: str | None) -> None:
    assert offline_variable(environment) == variable


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, str(Path.home() / ".cache/huggingface/hub")),
    ],
)
def test_the_hubs_own_cache_folder(environment: dict[str, str], folder: str) -> None:
    assert hub_cache_folder(environment) == Path(folder)


def test_ours_lies_beside_it_or_inside_the_given_one() -> None:
    assert s3_cache_folder({"HF_HOME": "/b"}, None) == Path("/b/pipemax-models")
    assert s3_cache_folder({"HF_HOME": "/b"}, Path("/c")) == Path("/c/pipemax-models")


def test_the_endpoint() -> None:
    assert hub_endpoint({}) == "https://huggingface.co"
    assert hub_endpoint({"HF_ENDPOINT": "http://mirror/"}) == "http://mirror"


def test_a_mounted_secret_wins(tmp_path: Path) -> None:
    folder = {"PIPEMAX_CREDENTIALS_FOLDER": str(tmp_path), "HF_TOKEN": "mine"}
    assert hub_token({}) is None
    assert hub_token(folder) == "mine"
    (tmp_path / "HF_TOKEN").write_text("secret\n")
    assert hub_token(folder) == "secret"
