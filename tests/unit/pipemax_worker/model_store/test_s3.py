"""A model's folder in a bucket of a real S3 server."""

from __future__ import annotations

import hashlib
import os

import pytest
from pipemax_worker.dataset.s3_store import S3Store, open_s3
from pipemax_worker.errors import ModelDownloadError, ModelNotFoundError
from pipemax_worker.model_store.checksum import Checksum, ChecksumKind
from pipemax_worker.model_store.models import RemoteFile, S3Model
from pipemax_worker.model_store.s3 import S3Source, parse_checksums
from pipemax_worker.model_store.source import SourceUnavailableError

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def store(s3_bucket: str) -> S3Store:
    store = open_s3(f"{s3_bucket}/models/small")
    store.put("model.safetensors", CONTENT)
    store.put("checkpoint-7/model.safetensors", b"not asked for")
    return store


def source_of(store: S3Store) -> S3Source:
    return S3Source(S3Model(f"{store.place}/"), os.environ)


def file_of(source: S3Source) -> RemoteFile:
    [file] = [file for file in source.list_files().files if file.name == "model.safetensors"]
    return file


def test_files_with_their_md5(store: S3Store) -> None:
    listing = source_of(store).list_files()
    [file] = listing.files
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert (file.name, file.size_bytes) == ("model.safetensors", len(CONTENT))
    assert file.checksum == Checksum(ChecksumKind.MD5, md5)
    assert listing.version is None


def test_named_checksums_win(store: S3Store) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    store.put("SHA256SUMS", f"{digest.upper()} *./model.safetensors\n".encode())
    assert file_of(source_of(store)).checksum == Checksum(ChecksumKind.SHA256, digest)


def test_checksum_lines() -> None:
    one, two = "0" * 64, "f" * 64
    text = f"{one}  a b.json\n# comment\n{two} *./c\nabc  short\n"
    assert parse_checksums(text.encode()) == {"a b.json": one, "c": two}


def test_bytes_from_an_offset(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipemax_worker.model_store.s3._RANGE_BYTES", 10_000)
    source = source_of(store)
    pieces = list(source.read("v", file_of(source), 1234))
    assert [len(piece) for piece in pieces] == [10_000, 10_000, len(CONTENT) - 21_234]
    assert b"".join(pieces) == CONTENT[1234:]


def test_an_object_that_changes_meanwhile(store: S3Store) -> None:
    source = source_of(store)
    file = file_of(source)
    store.put("model.safetensors", CONTENT[::-1])
    with pytest.raises(ModelDownloadError, match="it changes while it is read; run again"):
        list(source.read("v", file, 0))


def test_an_object_that_vanishes(store: S3Store) -> None:
    source = source_of(store)
    file = file_of(source)
    store.delete("model.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors: not found"):
        list(source.read("v", file, 0))


def test_a_bucket_that_is_not_there(s3_bucket: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such bucket"):
        S3Source(S3Model("s3://no-such-bucket-here/model"), os.environ).list_files()


def test_keys_that_are_half_there(s3_bucket: str) -> None:
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": ""}
    with pytest.raises(ModelNotFoundError, match="AWS_SECRET_ACCESS_KEY is missing"):
        S3Source(S3Model(f"{s3_bucket}/model"), environment)


def test_a_server_that_is_gone(s3_bucket: str) -> None:
    environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    with pytest.raises(SourceUnavailableError, match="check that the server can be reached"):
        S3Source(S3Model(f"{s3_bucket}/model"), environment).list_files()
