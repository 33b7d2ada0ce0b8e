"""Why the process ended, for whoever reads a container's termination message."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.records import RecordCounts

TERMINATION_LOG_VARIABLE = "PIPEMAX_TERMINATION_LOG"
MAX_BYTES = 4096
"""What Kubernetes keeps of a termination message."""


def write_completion(counts: RecordCounts, energy: EnergyTotals | None = None) -> None:
    """The job's end, from its manifest: what the operator takes for the last word on its counts,
    and on what it took of GPUs."""
    reason = "CompletedWithErrors" if counts.failed else "Complete"
    named = {
        "completed": counts.completed,
        "failed": counts.failed,
        "promptTokens": counts.prompt_tokens,
        "generatedTokens": counts.completion_tokens,
    }
    used = None
    if energy:
        used = {"joules": round(energy.joules), "gpuSeconds": round(energy.gpu_seconds)}
    write_termination_message(reason, "every request has a record", os.EX_OK, named, used)


def write_termination_message(
    reason: str,
    message: str,
    exit_code: int,
    counts: Mapping[str, int] | None = None,
    energy: Mapping[str, int] | None = None,
) -> None:
    """Write ``{reason, message, exitCode}``, and ``counts`` and ``energy`` of the whole job where
    they are known, to the file that ``PIPEMAX_TERMINATION_LOG`` names.

    Does nothing where the variable is not set. A file that cannot be written is no reason to fail:
    the exit code still tells.
    """
    path = os.environ.get(TERMINATION_LOG_VARIABLE)
    if path is None:
        return
    known = {"counts": counts, "energy": energy}
    while len(data := _encode(reason, message, exit_code, known)) > MAX_BYTES:
        message = message[: len(message) * 3 // 4]
    with contextlib.suppress(OSError):
        Path(path).write_bytes(data)


def _encode(
    reason: str, message: str, exit_code: int, known: Mapping[str, Mapping[str, int] | None]
) -> bytes:
    body: dict[str, Any] = {"reason": reason, "message": message, "exitCode": exit_code}
    body |= {name: dict(values) for name, values in known.items() if values is not None}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
