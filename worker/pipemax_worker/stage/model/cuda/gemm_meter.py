"""Measures a stage's matrix products at its first start, and keeps the table for later ones.

The table lies in the user's cache folder under a hash of GPU, library versions and shapes: runs
that find it choose as the run that measured it did, so their sums are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from pipemax_worker.stage.model.cuda.gemm_table import LIBRARIES, ROW_COUNTS, GemmTable
from pipemax_worker.stage.model.linear import Linear
from pipemax_worker.stage.model.native.library import cache_folder

LOGGER = logging.getLogger(__name__)

ROUNDS = 3
TABLE_VERSION = 1

Products = Mapping[str, Sequence[Linear]]
"""By kind: one of each layer."""


def ensure_table(
    products: Products,
    with_residual: frozenset[str],
    device: torch.device,
    folder: Path | None = None,
) -> GemmTable | None:
    """The table of ``products`` on ``device``, measured if it is not in ``folder`` (None: the
    user's cache folder). None, with one log line, where it cannot be measured.

    ``with_residual``: the kinds that add their result to a residual.
    """
    path = (folder or cache_folder()) / f"gemms-{_fingerprint(products, device)}.json"
    table = _read(path)
    if table is not None:
        return table
    start = time.monotonic()
    try:
        table = measure_table(products, with_residual, device)
    except (RuntimeError, AssertionError) as error:  # out of memory, a library without a shape
        LOGGER.warning("matrix products were not measured, the default library is used: %s", error)
        return None
    LOGGER.info("matrix products measured in %.1f s", time.monotonic() - start)
    _write(path, table)
    return table


@torch.inference_mode()
def measure_table(
    products: Products,
    with_residual: frozenset[str],
    device: torch.device,
    row_counts: Sequence[int] = ROW_COUNTS,
) -> GemmTable:
    """All layers' products of a kind one after the other, so that no weight is in a cache."""
    times: dict[str, dict[str, tuple[float, ...]]] = {}
    for kind, linears in products.items():
        times[kind] = {}
        for library in LIBRARIES:
            with preferred(library):
                times[kind][library] = tuple(
                    _measure(linears, num_rows, kind in with_residual, device)
                    for num_rows in row_counts
                )
    _free_memory()
    return GemmTable(tuple(row_counts), times)


def _free_memory() -> None:
    """Of the graphs, and what the libraries keep for the stream that these were captured on."""
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


@contextlib.contextmanager
def preferred(library: str) -> Iterator[None]:
    """What PyTorch launches here goes to ``library``."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(library)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def _measure(
    linears: Sequence[Linear], num_rows: int, has_residual: bool, device: torch.device
) -> float:
    """Microseconds, the least of some rounds. As a graph: launches one by one take longer."""
    num_out, num_in = linears[0].shape
    dtype = linears[0].dtype
    x = torch.randn(num_rows, num_in, device=device, dtype=dtype)
    residual = torch.zeros(num_rows, num_out, device=device, dtype=dtype) if has_residual else None

    def launch() -> None:
        for linear in linears:
            linear(x, residual)

    linears[0](x, residual)  # loads the kernels, which a capture must not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        launch()
    return min(_microseconds(graph) for _ in range(ROUNDS))


def _microseconds(graph: torch.cuda.CUDAGraph) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return 1e3 * float(start.elapsed_time(end))


def _fingerprint(products: Products, device: torch.device) -> str:
    shapes = {kind: (len(all_), *all_[0].shape) for kind, all_ in products.items()}
    dtypes = {str(all_[0].dtype) for all_ in products.values()}
    parts = (TABLE_VERSION, torch.__version__, torch.version.cuda, _gpu_name(device))
    text = repr((*parts, sorted(dtypes), sorted(shapes.items()), ROW_COUNTS))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _read(path: Path) -> GemmTable | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=GemmTable)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: Path, table: GemmTable) -> None:
    """Whole or not at all; a cache folder that cannot be written to costs the next run seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(msgspec.json.encode(table))
        os.replace(file.name, path)
    except OSError as error:
        LOGGER.warning("the table of matrix products was not kept: %s", error)
