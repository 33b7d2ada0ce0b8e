"""Endpoint, region and keys: from the environment, from a mounted Secret, never half from each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from kit.s3_server import S3Server
from pipemax_worker.dataset.s3_settings import (
    S3Location,
    parse_s3,
    read_retry_policy,
    read_settings,
)
from pipemax_worker.dataset.s3_store import open_s3
from pipemax_worker.errors import OutputError

_KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "t"}


def _mounted(folder: Path, **files: str) -> dict[str, str]:
    """As Kubernetes mounts a Secret: the files are links into a folder of its own."""
    (folder / "..data").mkdir(parents=True)
    for name, content in files.items():
        (folder / "..data" / name).write_text(content)
        (folder / name).symlink_to(Path("..data") / name)
    return {"PIPEMAX_CREDENTIALS_FOLDER": str(folder)}


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/", S3Location("bucket", "")),
        ("S3://bucket/a/b/", S3Location("bucket", "a/b")),
        ("/s3://bucket", None),
        ("gs://bucket/a", None),
        ("bucket/a", None),
    ],
)
def test_what_an_s3_place_is(uri: str, location: S3Location | None) -> None:
    assert parse_s3(uri) == location


def test_the_environment_says_how_the_bucket_is_reached() -> None:
    settings = read_settings({})
    assert (settings.endpoint, settings.region, settings.allows_http) == (None, "us-east-1", False)
    assert settings.read_access_keys is None
    assert settings.server == "AWS S3 in us-east-1"

    environment = {"AWS_ENDPOINT_URL": "https://a/", "AWS_DEFAULT_REGION": "r-1", **_KEYS}
    settings = read_settings(environment)
    assert (settings.endpoint, settings.region, settings.allows_http) == ("https://a", "r-1", False)
    assert settings.config().get("aws_endpoint_url_s3") == "https://a"
    assert settings.read_access_keys is not None
    found = settings.read_access_keys()
    assert (found["access_key_id"], found["secret_access_key"], found["token"]) == (
        "id",
        "secret",
        "t",
    )

    environment |= {"AWS_ENDPOINT_URL_S3": "http://b", "AWS_REGION": "r-2"}
    settings = read_settings(environment)
    assert (settings.endpoint, settings.region, settings.allows_http) == ("http://b", "r-2", True)
    assert read_settings({"AWS_ALLOW_HTTP": "TRUE"}).allows_http


def test_a_mounted_secret_wins_and_is_read_again(tmp_path: Path) -> None:
    secret = _mounted(
        tmp_path / "s",
        AWS_ACCESS_KEY_ID="new-id\n",
        AWS_SECRET_ACCESS_KEY="new-secret",
        AWS_ENDPOINT_URL="https://from-secret",
    )
    settings = read_settings({"AWS_ENDPOINT_URL": "https://a", **_KEYS, **secret})
    assert settings.endpoint == "https://from-secret"
    assert settings.read_access_keys is not None
    found = settings.read_access_keys()
    assert (found["access_key_id"], found["token"]) == ("new-id", None)
    assert found["expires_at"] is not None
    assert found["expires_at"] > datetime.now(UTC)
    (tmp_path / "s" / "..data" / "AWS_ACCESS_KEY_ID").write_text("newer-id")
    assert settings.read_access_keys()["access_key_id"] == "newer-id"


def test_a_secret_with_other_things_leaves_the_keys_alone(tmp_path: Path) -> None:
    secret = _mounted(tmp_path / "s", HF_TOKEN="hub")
    settings = read_settings({**_KEYS, **secret})
    assert settings.read_access_keys is not None
    assert settings.read_access_keys()["access_key_id"] == "id"


def test_what_else_a_secret_holds_is_not_looked_at(tmp_path: Path) -> None:
    """Neither a variable that no store reads, nor what is no text: a keystore, say."""
    secret = _mounted(tmp_path / "s", AWS_ENDPOINT_URL="https://a", PIPEMAX_STORE_RETRY_SECONDS="x")
    (tmp_path / "s" / "ca.jks").write_bytes(b"\xfe\xed\xfe\xed")
    assert read_settings(secret).endpoint == "https://a"
    assert read_retry_policy(secret).max_seconds == 120.0


def test_half_of_a_pair_of_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="AWS_SECRET_ACCESS_KEY is missing"):
        read_settings({"AWS_ACCESS_KEY_ID": "id"})
    with pytest.raises(OutputError, match="AWS_ACCESS_KEY_ID is missing"):
        read_settings({"AWS_SECRET_ACCESS_KEY": "secret"})
    with pytest.raises(OutputError, match="AWS_SECRET_ACCESS_KEY is missing"):
        read_settings({**_KEYS, **_mounted(tmp_path / "s", AWS_ACCESS_KEY_ID="id")})


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(OutputError, match=r"missing: the credentials cannot be read"):
        read_settings({"PIPEMAX_CREDENTIALS_FOLDER": missing})
    with pytest.raises(OutputError, match=r"AWS_CA_BUNDLE=.*missing"):
        read_settings({"AWS_CA_BUNDLE": missing})
    (tmp_path / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nno\n")
    with pytest.raises(OutputError, match="settings are refused"):
        open_s3("s3://bucket/out", {"AWS_CA_BUNDLE": str(tmp_path / "bad.pem")})
    with pytest.raises(OutputError, match="PIPEMAX_STORE_RETRY_SECONDS='soon': expected seconds"):
        read_retry_policy({"PIPEMAX_STORE_RETRY_SECONDS": "soon"})
    assert read_retry_policy({"PIPEMAX_STORE_RETRY_SECONDS": "2.5"}).max_seconds == 2.5
    assert read_retry_policy({}).max_seconds == 120.0


def test_a_mounted_secret_opens_a_real_store(s3_server: S3Server, tmp_path: Path) -> None:
    secret = _mounted(tmp_path / "s", **s3_server.environment)
    store = open_s3(s3_server.new_bucket(), secret)
    store.put("a", b"1")
    assert store.get("a") == b"1"
