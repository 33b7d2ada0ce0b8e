"""Runs a command whose processes get a part of a GPU's multiprocessors each, by CUDA MPS.

    python tools/gpu_slices.py --slices 4 -- python tools/gpu_step.py --model tools/shapes/...

Several stages on one large card stand in for as many small cards: ``--slices 4`` leaves each
process 25 % of the multiprocessors, and four busy ones share the card's memory bandwidth and its
link. Bandwidth is not bounded: a process whose neighbours wait gets more than its part, so what is
measured so says how policies compare, not how fast a card of that size is.

The control daemon runs for the command alone, in a folder of its own; no setting of the card is
changed. Ends with the command's exit code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
WHOLE = 100


def slice_environment(environment: Mapping[str, str], slices: int, folder: Path) -> dict[str, str]:
    """For a command whose processes are clients of the daemon in ``folder``."""
    return dict(environment) | {
        "CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(folder / "log"),
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{WHOLE / slices:g}",
        "NCCL_MULTI_RANK_GPU_ENABLE": "1",
    }


def run_in_slices(command: Sequence[str], slices: int) -> int:
    """Raises FileNotFoundError where the driver has no MPS, and CalledProcessError if the daemon
    does not start."""
    with tempfile.TemporaryDirectory(prefix="mps-") as name:
        folder = Path(name)
        for part in ("pipe", "log"):
            (folder / part).mkdir()
        environment = slice_environment(os.environ, slices, folder)
        subprocess.run([CONTROL, "-d"], stdin=subprocess.DEVNULL, env=environment, check=True)
        try:
            return subprocess.run(command, env=environment, check=False).returncode
        finally:
            subprocess.run([CONTROL], input="quit\n", text=True, env=environment, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=4, help="of a GPU (default: %(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or options.slices < 1:
        parser.error("a command is needed after --, and at least one slice")
    if shutil.which(CONTROL) is None:
        parser.error(f"there is no {CONTROL} here: it comes with NVIDIA's driver")
    return run_in_slices(command, options.slices)


if __name__ == "__main__":
    sys.exit(main())
