"""``python -m pipemax_worker.stage.model.cuda.prebuild``: FlashInfer's kernels, compiled ahead.

For images: a machine with nvcc and no GPU compiles what :func:`load_flashinfer` will want, for the
GPUs named in ``FLASHINFER_CUDA_ARCH_LIST`` ("8.6 8.9 9.0a 12.0f"), and puts it where FlashInfer
looks for kernels that came with it. Such an image needs no compiler, and a job starts minutes
sooner.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipemax_worker.stage.model.cuda.library import kernel_specs

HEAD_DIMS = (64, 128)
DTYPE = torch.bfloat16
KV_DTYPES = (torch.bfloat16, torch.float8_e4m3fn)


def all_specs() -> Iterator[Any]:
    """Each module once, though several combinations of types share it."""
    seen: set[str] = set()
    for head_dim in HEAD_DIMS:
        for kv_dtype in KV_DTYPES:
            for spec in kernel_specs(DTYPE, kv_dtype, head_dim).values():
                if spec.name not in seen:
                    seen.add(spec.name)
                    yield spec


def place_ahead(spec: Any) -> Path:
    """Build one module, unless it is there, and put it into FlashInfer's folder of ready ones.

    Raises what FlashInfer raises when the compiler is missing or fails.
    """
    target = Path(spec.aot_path)
    if not target.exists():
        spec.build(verbose=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        shutil.copyfile(spec.jit_library_path, partial)
        partial.rename(target)
    return target


def main() -> int:
    for spec in all_specs():
        start = time.monotonic()
        place = place_ahead(spec)
        megabytes = place.stat().st_size / 1e6
        print(f"{place.stem}: {megabytes:.1f} MB, {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
