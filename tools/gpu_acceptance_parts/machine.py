"""What the machine is, asked without loading torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata

from pipemax_worker.pipeline.gpus import gpu_memory_bytes

from gpu_acceptance_parts.part import Json, Machine

PACKAGES = ("torch", "triton", "transformers", "flashinfer-python", "numpy", "pydantic", "msgspec")
_QUERY = "--query-gpu=name,driver_version,power.limit,pcie.link.gen.max,pcie.link.width.max"


def find_machine() -> Machine:
    """GPUs that CUDA may use, by ``CUDA_VISIBLE_DEVICES`` too."""
    memory = gpu_memory_bytes()
    if not memory:
        return Machine(0, platform.processor() or "cpu")
    return Machine(len(memory), _ask_nvidia_smi().split(",")[0] or "GPU", min(memory))


def conditions_of(machine: Machine) -> Json:
    """Said beside every figure."""
    return {
        "gpus": machine.num_gpus,
        "gpu": machine.name,
        "gpu_facts": _ask_nvidia_smi(),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
        "peer_access": "off" if os.environ.get("NCCL_P2P_DISABLE") == "1" else "as it is",
        "commit": _commit(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ask_nvidia_smi() -> str:
    """Of the first GPU; empty without the program."""
    lines = _say("nvidia-smi", _QUERY, "--format=csv,noheader").splitlines()
    return lines[0] if lines else ""


def _commit() -> str:
    """Empty in a copy that is no clone."""
    return _say("git", "rev-parse", "--short", "HEAD").strip()


def _say(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
