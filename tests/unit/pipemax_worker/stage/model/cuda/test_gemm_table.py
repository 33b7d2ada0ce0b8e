"""Row counts and libraries from measured times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.stage.model.cuda import create, gemm_meter
from pipemax_worker.stage.model.cuda.gemm_meter import Products, ensure_table, preferred
from pipemax_worker.stage.model.cuda.gemm_table import MOST_PADDING, ROW_COUNTS, GemmTable
from pipemax_worker.stage.model.linear import Linear

CPU = torch.device("cpu")
COUNTS = (8, 16, 24, 32, 64)
TABLE = GemmTable(
    COUNTS,
    {
        "qkv": {"cublas": (10.0, 11.0, 30.0, 14.0, 40.0), "cublaslt": (9.9, 9.0, 40.0, 20.0, 8.0)},
        "down": {"cublas": (5.0, 5.0, 5.0, 5.0, 5.0), "cublaslt": (6.0, 6.0, 6.0, 6.0, 6.0)},
    },
)


@pytest.mark.parametrize(
    ("num_rows", "library"),
    [(1, "cublas"), (8, "cublas"), (9, "cublaslt"), (24, "cublas"), (64, "cublaslt")],
)
def test_the_faster_library_unless_the_gain_is_noise(num_rows: int, library: str) -> None:
    assert TABLE.library_for("qkv", num_rows) == library
    assert TABLE.library_for("down", num_rows) == "cublas"


def test_the_default_for_what_was_not_measured() -> None:
    assert TABLE.library_for("head", 8) == "cublas"
    assert TABLE.library_for("qkv", 65) == "cublas"


def test_a_step_is_the_sum_of_its_products() -> None:
    assert TABLE.step_microseconds == (15.0, 14.0, 35.0, 19.0, 13.0)


@pytest.mark.parametrize(
    ("num_rows", "padded"), [(3, 16), (8, 16), (17, 32), (24, 32), (33, 64), (64, 64), (70, 70)]
)
def test_steps_are_padded_to_fast_row_counts(num_rows: int, padded: int) -> None:
    assert TABLE.padded_rows(num_rows) == padded


times = st.lists(st.floats(1, 100), min_size=len(ROW_COUNTS), max_size=len(ROW_COUNTS))


@given(times, times, st.integers(1, 900))
def test_padding_never_makes_a_step_slower(
    first: list[float], second: list[float], num_rows: int
) -> None:
    table = GemmTable(ROW_COUNTS, {"all": {"cublas": tuple(first), "cublaslt": tuple(second)}})
    padded = table.padded_rows(num_rows)
    assert padded >= num_rows
    if num_rows > ROW_COUNTS[-1]:
        assert padded == num_rows
        return
    least = min(count for count in ROW_COUNTS if count >= num_rows)
    assert padded <= max(num_rows + MOST_PADDING, least)
    by_count = dict(zip(ROW_COUNTS, table.step_microseconds, strict=True))
    assert by_count[padded] <= by_count[least]


@pytest.fixture
def products() -> Products:
    return {
        "qkv": [Linear(torch.randn(6, 4), None) for _ in range(2)],
        "down": [Linear(torch.randn(4, 8), None) for _ in range(2)],
    }


class FakeMeter:
    """In place of a GPU: the time is the library's, and told of what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, int, bool, str]] = []
        monkeypatch.setattr(gemm_meter, "_measure", self.measure)
        monkeypatch.setattr(gemm_meter, "_free_memory", lambda: None)

    def measure(
        self, linears: list[Linear], num_rows: int, has_residual: bool, device: torch.device
    ) -> float:
        library = torch.backends.cuda.preferred_blas_library().name.lower()
        self.asked.append((len(linears), num_rows, has_residual, library))
        return 1.0 if library == "cublaslt" else 2.0


def test_a_table_is_measured_once(
    products: Products, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = FakeMeter(monkeypatch)
    before = torch.backends.cuda.preferred_blas_library()
    table = ensure_table(products, frozenset({"down"}), CPU, tmp_path)
    assert table is not None
    assert table.library_for("down", 8) == "cublaslt"
    assert len(meter.asked) == 2 * 2 * len(ROW_COUNTS)
    assert {has_residual for *_, has_residual, _ in meter.asked} == {True, False}
    assert torch.backends.cuda.preferred_blas_library() == before
    again = ensure_table(products, frozenset({"down"}), CPU, tmp_path)
    assert again == table
    assert len(meter.asked) == 2 * 2 * len(ROW_COUNTS)


def test_a_torn_table_is_measured_again(
    products: Products, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeMeter(monkeypatch)
    table = ensure_table(products, frozenset(), CPU, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert ensure_table(products, frozenset(), CPU, tmp_path) == table


def test_other_shapes_have_another_table(
    products: Products, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeMeter(monkeypatch)
    ensure_table(products, frozenset(), CPU, tmp_path)
    ensure_table({"qkv": products["qkv"]}, frozenset(), CPU, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_to(
    products: Products,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    FakeMeter(monkeypatch)
    (tmp_path / "file").touch()
    assert ensure_table(products, frozenset(), CPU, tmp_path / "file" / "cache") is not None
    assert "was not kept" in caplog.text


def test_products_that_cannot_be_measured(
    products: Products,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> float:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(gemm_meter, "_measure", fail)
    assert ensure_table(products, frozenset(), CPU, tmp_path) is None
    assert "the default library is used: no room" in caplog.text


def test_the_library_is_as_before_after_an_error() -> None:
    before = torch.backends.cuda.preferred_blas_library()
    with pytest.raises(KeyError), preferred("cublaslt"):
        raise KeyError
    assert torch.backends.cuda.preferred_blas_library() == before


def test_products_and_steps_go_by_the_table(
    products: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steps:
        gemm_table: GemmTable | None = None

    layers = [{kind: linears[n] for kind, linears in products.items()} for n in range(2)]
    monkeypatch.setattr(create, "ensure_table", lambda *_: TABLE)
    steps = Steps()
    create.choose_libraries(steps, layers, CPU)  # type: ignore[arg-type]
    assert steps.gemm_table is TABLE
    for linear in products["qkv"]:
        assert linear._library_for is not None
        assert linear._library_for(16) == "cublaslt"
    monkeypatch.setattr(create, "ensure_table", lambda *_: None)
    steps = Steps()
    create.choose_libraries(steps, layers, CPU)  # type: ignore[arg-type]
    assert steps.gemm_table is None
