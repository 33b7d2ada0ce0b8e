"""Kernels that an image brings along: what is built, and where FlashInfer finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipemax_worker.stage.model.cuda import prebuild


class FakeSpec:
    """FlashInfer's JitSpec, as far as it is used: a build is a file in the cache folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.aot_path = folder / "ready" / name / f"{name}.so"
        self.jit_library_path = folder / "cache" / name / f"{name}.so"
        self.num_builds = 0

    def build(self, verbose: bool) -> None:
        self.num_builds += 1
        self.jit_library_path.parent.mkdir(parents=True)
        self.jit_library_path.write_bytes(self.name.encode())


def test_a_module_is_put_where_ready_ones_are_looked_for_and_built_once(tmp_path: Path) -> None:
    spec = FakeSpec("norm", tmp_path)
    for _ in range(2):
        assert prebuild.place_ahead(spec) == spec.aot_path
    assert spec.num_builds == 1
    assert spec.aot_path.read_bytes() == b"norm"
    assert [path.name for path in spec.aot_path.parent.iterdir()] == ["norm.so"]


def test_every_combination_is_built_and_shared_modules_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    def fake_specs(dtype: Any, kv_dtype: Any, head_dim: int) -> dict[str, FakeSpec]:
        asked.append((dtype, kv_dtype, head_dim))
        name = f"attention_{kv_dtype}_{head_dim}"
        return {"attention": FakeSpec(name, tmp_path), "norm": FakeSpec("norm", tmp_path)}

    monkeypatch.setattr(prebuild, "kernel_specs", fake_specs)
    assert prebuild.main() == 0
    assert len(set(asked)) == len(prebuild.HEAD_DIMS) * len(prebuild.KV_DTYPES)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(asked) + 1
    assert sum(line.startswith("norm:") for line in lines) == 1


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    spec = FakeSpec("norm", tmp_path)

    def fail(verbose: bool) -> None:
        raise RuntimeError("no nvcc")

    spec.build = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="nvcc"):
        prebuild.place_ahead(spec)
    assert not (tmp_path / "ready").exists()
