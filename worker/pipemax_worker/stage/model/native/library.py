"""Compiles the C kernels for this very machine, once, and loads them.

The library lies in the user's cache folder under a hash of all that went into it: sources,
compiler, flags and CPU. Of many processes that start together one builds it while the others wait;
the file is renamed into place when it is whole, so nobody ever loads half a library.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

LOGGER = logging.getLogger(__name__)
SOURCE_FOLDER = Path(__file__).parent
FLAGS = (
    *("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wno-psabi", "-shared", "-fPIC", "-fopenmp", "-Wl,--as-needed"),
)
COMPILE_TIMEOUT_SECONDS = 300


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, with one log line, where they cannot be had."""
    try:
        return ctypes.CDLL(str(_ensure_built(cache_folder())))
    except (OSError, subprocess.SubprocessError) as error:
        LOGGER.warning("no compiled CPU kernels, PyTorch's are used (slower): %s", error)
        return None


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/pipemax``, by default ``~/.cache/pipemax``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "pipemax"


def _ensure_built(folder: Path) -> Path:
    compiler = _find_compiler()
    library = folder / f"kernels-{_fingerprint(compiler)}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / "build.lock"):
            if not library.exists():
                _build(compiler, library)
    return library


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process; freed by the kernel if that one dies. A file system without locks costs
    some builds too many, no more."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find_compiler() -> str:
    name = os.environ.get("CC", "cc")
    compiler = shutil.which(name)
    if compiler is None:
        raise FileNotFoundError(f"no C compiler: {name} is not on the PATH; install gcc")
    return compiler


def _build(compiler: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build-") as build_folder:
        built = Path(build_folder) / library.name
        command = build_command(compiler, built)
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False
        )
        if result.returncode != 0:
            last = result.stderr.strip().splitlines()[-1:] or ["no message"]
            raise OSError(f"{' '.join(command)} failed: {last[0]}")
        built.replace(library)


def build_command(compiler: str, library: Path) -> list[str]:
    """The compiler's command line for the whole library."""
    sources = sorted(str(path) for path in SOURCE_FOLDER.glob("*.c"))
    return [compiler, *FLAGS, *sources, "-o", str(library), *_openmp_libraries(), "-lm"]


def _openmp_libraries() -> Sequence[str]:
    """PyTorch's own OpenMP run time, if it ships one under a name of its own.

    Two run times in one process mean two pools of threads that fight for the cores. A file named
    libgomp.so.1 is found by that name, as it is loaded already; a renamed one is linked by its
    path, before the compiler's own, which --as-needed then drops.
    """
    root = Path(torch.__file__).parent
    files = [*root.glob("lib/libgomp-*.so*"), *root.parent.glob("torch.libs/libgomp-*.so*")]
    return [str(file) for file in files[:1]]


def _fingerprint(compiler: str) -> str:
    digest = hashlib.sha256()
    for path in sorted((*SOURCE_FOLDER.glob("*.c"), *SOURCE_FOLDER.glob("*.h"))):
        digest.update(path.read_bytes())
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, timeout=COMPILE_TIMEOUT_SECONDS, check=True
    )
    digest.update(version.stdout)
    digest.update(" ".join((*FLAGS, *_openmp_libraries(), platform.machine())).encode())
    digest.update(_cpu_flags())
    return digest.hexdigest()[:16]


def _cpu_flags() -> bytes:
    """What ``-march=native`` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = (b"flags", b"Features", b"model name", b"CPU part")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))
