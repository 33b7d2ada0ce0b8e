"""The hashes that hubs and buckets name."""

import hashlib
from pathlib import Path

import pytest
from pipemax_worker.model_store.checksum import ChecksumKind, hash_file


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        (ChecksumKind.SHA256, hashlib.sha256(b"hello\n").hexdigest()),
        (ChecksumKind.MD5, "b1946ac92492d2347c6235b4d2611184"),
        (ChecksumKind.GIT_SHA1, "ce013625030ba8dba906f756967f9e9ca394464a"),  # git hash-object
    ],
)
def test_known_digests(kind: ChecksumKind, digest: str, tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    assert hash_file(path, kind, lambda: None) == digest


def test_hashing_stops_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_file(path, ChecksumKind.MD5, stop)
