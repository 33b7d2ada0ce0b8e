"""Input files in a bucket: which they are, what identifies them, how they are read."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.s3_proxy import Fault, FaultyProxy
from kit.s3_server import S3Server
from pipemax_worker.dataset import ranged_file
from pipemax_worker.dataset.inputs import InputFile, discover_inputs
from pipemax_worker.dataset.line_numbers import LineNumbers
from pipemax_worker.dataset.ranges import plan_ranges
from pipemax_worker.dataset.reader import Line, RangeReader, check_unchanged
from pipemax_worker.dataset.s3_inputs import matches_glob
from pipemax_worker.dataset.s3_store import open_s3
from pipemax_worker.errors import InputError, InputNotFoundError, InputUnavailableError

_TEXT = b"".join(b'{"line": %d, "text": "%s"}\n' % (n, b"x" * (n % 97)) for n in range(3000))


@pytest.fixture
def bucket(s3_bucket: str) -> str:
    return s3_bucket


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Between the reader and the server; tests write to the server itself."""
    with FaultyProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def _put(bucket: str, server: S3Server, **objects: bytes) -> None:
    store = open_s3(bucket, server.environment)
    for key, data in objects.items():
        store.put(key, data)


def _write(bucket: str, server: S3Server, *keys: str) -> None:
    _put(bucket, server, **{key: f"{key}\n".encode() for key in keys})


def _names(*places: str | Path) -> list[str]:
    return [file.name for file in discover_inputs(places)]


def _read(file: InputFile, range_bytes: int = 20_000) -> list[Line]:
    return [line for one in plan_ranges([file], range_bytes) for line in RangeReader(one)]


def test_one_object_is_called_by_its_own_name(bucket: str, s3_server: S3Server) -> None:
    _put(bucket, s3_server, **{"deep/prompts.txt": b"12345"})
    (file,) = discover_inputs([f"{bucket}/deep/prompts.txt"])
    assert (file.name, file.size_bytes, file.path) == (
        "prompts.txt",
        5,
        f"{bucket}/deep/prompts.txt",
    )
    assert file.content_hash == f'etag:"{"827ccb0eea8a706c4c34a16891f84e7b"}"'  # MD5 of 12345
    assert file.is_remote
    check_unchanged(file)


def test_folders_and_globs_find_what_they_find_on_disk(
    bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    keys = ("in/b.jsonl", "in/a.jsonl", "in/c.jsonl.gz", "in/notes.txt", "in/.hidden.jsonl")
    keys += ("in/sub/a.jsonl", "in/sub/deep/a.jsonl", "in/.dot/a.jsonl", "inner/a.jsonl")
    _write(bucket, s3_server, *keys)
    for key in keys:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text(key)
    patterns = ("*.jsonl", "**/*.jsonl", "*/a.jsonl", "?.jsonl", "[ab].jsonl", "**/deep/*", "*.gz")
    for pattern in ("", *patterns):
        assert _names(f"{bucket}/in/{pattern}") == _names(f"{tmp_path}/in/{pattern}"), pattern
    assert _names(f"{bucket}/in") == ["a.jsonl", "b.jsonl", "c.jsonl.gz"]
    assert _names(f"{bucket}/in*/a.jsonl") == ["in/a.jsonl", "inner/a.jsonl"]


def test_several_buckets_and_disks_have_names_that_never_collide(
    bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    other = s3_server.new_bucket()
    _write(bucket, s3_server, "x/a.jsonl", "y/a.jsonl")
    _write(other, s3_server, "a.jsonl")
    (tmp_path / "a.jsonl").write_text("local")
    assert _names(f"{bucket}/x/a.jsonl", f"{bucket}/y", f"{bucket}/x") == ["x/a.jsonl", "y/a.jsonl"]
    name, other_name = bucket.removeprefix("s3://"), other.removeprefix("s3://")
    assert set(_names(f"{bucket}/x", other)) == {f"{name}/x/a.jsonl", f"{other_name}/a.jsonl"}
    files = discover_inputs([f"{bucket}/x", other, tmp_path])
    assert len({file.name for file in files}) == 3
    assert {file.path for file in files} == {
        f"{bucket}/x/a.jsonl",
        f"{other}/a.jsonl",
        str(tmp_path / "a.jsonl"),
    }


def test_a_key_that_looks_like_a_glob_is_a_key_if_it_exists(
    bucket: str, s3_server: S3Server
) -> None:
    _write(bucket, s3_server, "a[1].jsonl", "a1.jsonl", "a b%20é.jsonl")
    assert _names(f"{bucket}/a[1].jsonl") == ["a[1].jsonl"]
    assert _names(f"{bucket}/a b*.jsonl") == ["a b%20é.jsonl"]
    (file,) = discover_inputs([f"{bucket}/a b%20é.jsonl"])
    assert [line.data for line in _read(file)] == ["a b%20é.jsonl".encode()]


@pytest.mark.parametrize("place", ["missing.jsonl", "in/*.csv", "empty/", "**/z"])
def test_nothing_found_names_the_place(bucket: str, s3_server: S3Server, place: str) -> None:
    _write(bucket, s3_server, "in/a.jsonl")
    with pytest.raises(InputNotFoundError) as caught:
        discover_inputs([f"{bucket}/{place}"])
    assert f"{bucket}/{place}".rstrip("/") in str(caught.value)


@pytest.mark.parametrize("place", ["s3://no-such-bucket/a.jsonl", "s3://no-such-bucket/*.jsonl"])
def test_a_missing_bucket_is_a_missing_input(bucket: str, place: str) -> None:
    with pytest.raises(InputNotFoundError, match="there is no such bucket"):
        discover_inputs([place])


def test_empty_objects(bucket: str, s3_server: S3Server) -> None:
    _put(bucket, s3_server, **{"empty.jsonl": b""})
    with pytest.raises(InputError, match="no requests"):
        discover_inputs([bucket])
    _write(bucket, s3_server, "full.jsonl")
    assert _names(bucket) == ["empty.jsonl", "full.jsonl"]


def test_ranges_read_as_from_disk(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    _put(bucket, s3_server, **{"a.jsonl": _TEXT})
    (tmp_path / "a.jsonl").write_bytes(_TEXT)
    (remote,) = discover_inputs([bucket])
    (local,) = discover_inputs([tmp_path])
    for range_bytes in (1000, 65_536, 1 << 30):
        assert _read(remote, range_bytes) == _read(local, range_bytes)


def test_a_range_is_fetched_once_and_little_else(
    bucket: str, s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged_file, "BLOCK_BYTES", 30_000)
    _put(bucket, s3_server, **{"a.jsonl": _TEXT})
    (file,) = discover_inputs([bucket])
    proxy.requests.clear()
    ranges = plan_ranges([file], 60_000)
    lines = list(RangeReader(ranges[1]))
    assert 55_000 < sum(len(line.data) + 1 for line in lines) < 65_000
    assert len(proxy.requests) <= 4  # 30 KB a block; the last one reaches past the range's end


@pytest.mark.parametrize("is_remote", [True, False])
def test_a_compressed_file_of_several_members_is_one_text(
    bucket: str, s3_server: S3Server, tmp_path: Path, is_remote: bool
) -> None:
    data = b"".join(gzip.compress(_TEXT[at : at + 50_001]) for at in range(0, len(_TEXT), 50_001))
    _put(bucket, s3_server, **{"a.jsonl.gz": data})
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    (file,) = discover_inputs([bucket if is_remote else tmp_path])
    lines = _read(file)
    assert [line.data for line in lines] == _TEXT.splitlines()
    assert [line.key.offset for line in lines[:2]] == [0, _TEXT.index(b"\n") + 1]
    assert LineNumbers().line_number_of(file, lines[2500].key.offset) == 2501


@pytest.mark.parametrize("is_remote", [True, False])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-4], "is cut off"),
        (lambda data: data[: len(data) // 2], "is cut off"),
        (lambda data: _TEXT, "no valid gzip"),
        (lambda data: data[:9000] + b"\0\1\2\3" * 50 + data[9200:], "no valid gzip"),
    ],
)
def test_a_damaged_compressed_file_is_named(
    bucket: str,
    s3_server: S3Server,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    said: str,
    is_remote: bool,
) -> None:
    data = damage(gzip.compress(_TEXT, 1))
    _put(bucket, s3_server, **{"a.jsonl.gz": data})
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    (file,) = discover_inputs([bucket if is_remote else tmp_path])
    with pytest.raises(InputError, match=said) as caught:
        _read(file)
    assert file.path in str(caught.value)


def test_line_numbers_far_into_the_file(bucket: str, s3_server: S3Server) -> None:
    _put(bucket, s3_server, **{"a.jsonl": _TEXT})
    (file,) = discover_inputs([bucket])
    ranges = plan_ranges([file], 20_000)
    numbers = LineNumbers()
    for input_range in (ranges[3], ranges[-1], ranges[0]):
        for line in RangeReader(input_range):
            assert _TEXT.splitlines()[numbers.number_of(line, input_range) - 1] == line.data


def test_an_input_that_changes_while_it_is_read(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged_file, "BLOCK_BYTES", 10_000)
    _put(bucket, s3_server, **{"a.jsonl": _TEXT})
    (file,) = discover_inputs([bucket])
    lines = iter(RangeReader(plan_ranges([file], 1 << 30)[0]))
    next(lines)
    _put(bucket, s3_server, **{"a.jsonl": _TEXT.replace(b"line", b"LINE")})
    seen = []
    with pytest.raises(InputError, match=r"a.jsonl: the input changed while the job runs"):
        seen.extend(lines)
    assert not any(b"LINE" in line.data for line in seen)
    for changed in (lambda: _read(file), lambda: check_unchanged(file)):
        with pytest.raises(InputError, match="the input changed"):
            changed()
    open_s3(bucket, s3_server.environment).delete("a.jsonl")
    for gone in (lambda: _read(file), lambda: check_unchanged(file)):
        with pytest.raises(InputError, match="is gone"):
            gone()


def test_a_store_that_fails_while_it_is_read(
    bucket: str, s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while: read on from where it broke. For good: say so, and blame no input."""
    monkeypatch.setattr(ranged_file, "BLOCK_BYTES", 20_000)
    _put(bucket, s3_server, **{"a.jsonl": _TEXT})
    (file,) = discover_inputs([bucket])
    faults = [Fault.CUT_BODY, None, Fault.UNAVAILABLE, None, Fault.CUT, Fault.CUT_BODY]
    proxy.faults.extend(faults)
    assert [line.data for line in _read(file, 1 << 30)] == _TEXT.splitlines()
    assert not proxy.faults
    monkeypatch.setenv("PIPEMAX_STORE_RETRY_SECONDS", "0.2")
    lines = iter(RangeReader(plan_ranges([file], 1 << 30)[0]))
    next(lines)
    proxy.constant_fault = Fault.UNAVAILABLE
    with pytest.raises(InputUnavailableError, match=r"a.jsonl at http.*tried") as caught:
        list(lines)
    assert caught.value.exit_code == 74
    with pytest.raises(InputUnavailableError):
        discover_inputs([bucket])


@given(
    st.lists(st.sampled_from(["a", "b", ".a", "ab"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "*", "**", "?", "[ab]*", ".*"]), min_size=1, max_size=4),
)
def test_globs_match_as_their_expansions(parts: list[str], patterns: list[str]) -> None:
    """Checked against a search written the other way round: by expanding ``**``."""
    expected = any(
        len(concrete) == len(parts)
        and all(
            matches_glob(part, "*" if pattern is None else pattern)
            for part, pattern in zip(parts, concrete, strict=True)
        )
        for concrete in _expansions(patterns, len(parts))
    )
    assert matches_glob("/".join(parts), "/".join(patterns)) == expected


def _expansions(patterns: list[str], most: int) -> Iterator[list[str | None]]:
    if not patterns:
        yield []
        return
    for rest in _expansions(patterns[1:], most):
        if patterns[0] == "**":
            for count in range(most + 1):
                yield [None] * count + rest
        else:
            yield [patterns[0], *rest]
