"""Building the C kernels: once, whatever races, and without them where there is no compiler."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from kit.models import save_model
from kit.paged_model import PagedModel
from pipemax_worker.stage.model.native import library

FAKE_COMPILER = """#!/bin/sh
[ "$1" = --version ] && exit 0
echo turn >> {log}
while [ "$1" != -o ]; do shift; done
touch "$2"
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and a fake compiler that logs its turns and leaves an empty file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler = tmp_path / "fake-cc"
    compiler.write_text(FAKE_COMPILER.format(log=tmp_path / "turns"))
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    library.load_library.cache_clear()
    yield tmp_path / "pipemax"
    library.load_library.cache_clear()


def built_libraries(cache: Path) -> list[Path]:
    return list(cache.glob("*.so"))


def test_the_real_compiler_makes_a_library_with_all_kernels() -> None:
    loaded = library.load_library()
    assert loaded is not None, "the tests need a C compiler"
    for name in ("attention", "rotate_and_append", "rms_norm", "silu_and_multiply"):
        assert hasattr(loaded, f"pipemax_{name}")


def test_of_many_that_start_together_one_builds(cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(library._ensure_built, [cache] * 8))
    assert paths == set(built_libraries(cache))
    assert (cache.parent / "turns").read_text() == "turn\n"


def test_a_built_library_is_used_again(cache: Path) -> None:
    first = library._ensure_built(cache)
    assert library._ensure_built(cache) == first
    assert (cache.parent / "turns").read_text() == "turn\n"


def test_what_cannot_be_loaded_means_torch(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The fake compiler's library is an empty file."""
    assert library.load_library() is None
    assert "no compiled CPU kernels" in caplog.text


def test_no_compiler_means_torch_and_one_line(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = save_model(tmp_path / "model", "llama")
    expected = PagedModel(folder, (4,), uses_native=False).forward({0: [4, 5, 6]})
    library.load_library.cache_clear()
    caplog.clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.WARNING, logger=library.LOGGER.name):
        model = PagedModel(folder, (2, 2))
    assert [stage._native for stage in model.stages] == [None, None]
    assert "no C compiler: no-such-compiler is not on the PATH" in caplog.text
    assert len([r for r in caplog.records if r.name == library.LOGGER.name]) == 1
    for kv in model.kv:
        kv.zero_()
    assert torch.equal(model.forward({0: [4, 5, 6]}), expected)


def test_a_compiler_that_fails_means_torch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho cannot >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert library.load_library() is None
    assert "failed: cannot" in caplog.text
    assert built_libraries(cache) == []


def test_sources_flags_and_cpu_name_the_library(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = library._find_compiler()
    names = {library._fingerprint(compiler)}
    monkeypatch.setattr(library, "_cpu_flags", lambda: b"another CPU")
    names.add(library._fingerprint(compiler))
    monkeypatch.setattr(library, "FLAGS", ("-O2",))
    names.add(library._fingerprint(compiler))
    assert len(names) == 3


def test_links_torchs_own_openmp_if_it_has_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two OpenMP run times in one process would fight for the cores."""
    (tmp_path / "torch.libs").mkdir()
    renamed = tmp_path / "torch.libs" / "libgomp-a34b3233.so.1"
    renamed.touch()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    command = library.build_command("cc", Path("out.so"))
    assert str(renamed) in command
    assert command.index("-Wl,--as-needed") < command.index(str(renamed))
