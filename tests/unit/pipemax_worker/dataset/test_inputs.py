"""Which files are the input, what they are called, and what identifies them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pipemax_worker.dataset.inputs import discover_inputs, hash_content
from pipemax_worker.errors import InputError, InputNotFoundError


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")


def _names(*places: str | Path) -> list[str]:
    return [file.name for file in discover_inputs(places)]


def test_a_file_is_called_by_its_own_name(tmp_path: Path) -> None:
    _write(tmp_path, "prompts.txt")
    (file,) = discover_inputs([tmp_path / "prompts.txt"])
    assert (file.name, file.size_bytes, file.path) == (
        "prompts.txt",
        12,
        str(tmp_path / "prompts.txt"),
    )
    assert not file.is_compressed


def test_a_folder_gives_its_jsonl_files_sorted(tmp_path: Path) -> None:
    _write(
        tmp_path, "b.jsonl", "a.jsonl", "c.jsonl.gz", "notes.txt", ".hidden.jsonl", "sub/d.jsonl"
    )
    assert _names(tmp_path) == ["a.jsonl", "b.jsonl", "c.jsonl.gz"]


def test_a_glob_names_files_below_what_they_share(tmp_path: Path) -> None:
    _write(tmp_path, "x/a.jsonl", "y/a.jsonl", "y/deep/a.jsonl", "y/a.txt")
    assert _names(tmp_path / "*" / "a.jsonl") == ["x/a.jsonl", "y/a.jsonl"]
    assert _names(tmp_path / "**" / "*.jsonl") == ["x/a.jsonl", "y/a.jsonl", "y/deep/a.jsonl"]
    assert _names(tmp_path / "y" / "a.*") == ["a.jsonl", "a.txt"]


def test_several_places_are_named_apart_and_taken_once(tmp_path: Path) -> None:
    _write(tmp_path, "x/a.jsonl", "y/a.jsonl")
    places = (tmp_path / "x" / "a.jsonl", f"file://{tmp_path}/y", tmp_path / "x")
    assert _names(*places) == ["x/a.jsonl", "y/a.jsonl"]


def test_a_name_that_looks_like_a_glob_is_a_name_if_it_exists(tmp_path: Path) -> None:
    _write(tmp_path, "a[1].jsonl", "a1.jsonl", "d[1]/b.jsonl")
    assert _names(tmp_path / "a[1].jsonl") == ["a[1].jsonl"]
    assert _names(tmp_path / "d[1]") == ["b.jsonl"]


def test_names_do_not_depend_on_where_the_input_is_mounted(tmp_path: Path) -> None:
    for mount in ("here", "there/deeper"):
        _write(tmp_path / mount, "x/a.jsonl", "y/b.jsonl")
    here, there = (
        discover_inputs([tmp_path / mount / "*" / "*.jsonl"]) for mount in ("here", "there/deeper")
    )
    assert [(f.name, f.content_hash) for f in here] == [(f.name, f.content_hash) for f in there]


@pytest.mark.parametrize("missing", ["missing.jsonl", "*.jsonl", "empty"])
def test_nothing_found_names_the_place(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputNotFoundError) as caught:
        discover_inputs([tmp_path / missing])
    assert str(tmp_path / missing) in str(caught.value)


def test_other_schemes_and_no_place_are_refused() -> None:
    with pytest.raises(InputNotFoundError, match=r"gs://bucket/\*: expected a path"):
        discover_inputs(["gs://bucket/*"])
    with pytest.raises(InputNotFoundError, match="no input is given"):
        discover_inputs([])


def test_an_empty_file_is_legal_beside_others_but_not_alone(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="no requests"):
        discover_inputs([tmp_path])
    _write(tmp_path, "full.jsonl")
    assert _names(tmp_path) == ["empty.jsonl", "full.jsonl"]


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="not a regular file"):
        discover_inputs([tmp_path / "pipe.jsonl"])


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).write_text("{}")
    with pytest.raises(InputError, match="not UTF-8"):
        discover_inputs([tmp_path])


@pytest.mark.parametrize("size", [1, 65536, 65537, 131072, 131073, 1_000_000])
def test_the_hash_sees_both_ends_and_the_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    hashes = set()
    for content in (
        b"x" * size,
        b"y" + b"x" * (size - 1),
        b"x" * (size - 1) + b"z",
        b"x" * (size + 1),
    ):
        path.write_bytes(content)
        hashes.add(hash_content(str(path), len(content)))
    assert len(hashes) == 4


def test_the_hash_sees_a_file_made_again_with_other_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    edge = b"-" * 65536
    hashes = set()
    for filling in (b"x", b"y"):
        path.write_bytes(edge + filling * 500_000 + edge)
        hashes.add(hash_content(str(path), 500_000 + 2 * 65536))
    assert len(hashes) == 2
