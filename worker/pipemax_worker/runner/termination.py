"""Why the process ended, for whoever reads a container's termination message."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

TERMINATION_LOG_VARIABLE = "PIPEMAX_TERMINATION_LOG"
MAX_BYTES = 4096
"""What Kubernetes keeps of a termination message."""


def write_termination_message(reason: str, message: str, exit_code: int) -> None:
    """Write ``{reason, message, exitCode}`` to the file that ``PIPEMAX_TERMINATION_LOG`` names.

    Does nothing where the variable is not set. A file that cannot be written is no reason to fail:
    the exit code still tells.
    """
    path = os.environ.get(TERMINATION_LOG_VARIABLE)
    if path is None:
        return
    while len(data := _encode(reason, message, exit_code)) > MAX_BYTES:
        message = message[: len(message) * 3 // 4]
    with contextlib.suppress(OSError):
        Path(path).write_bytes(data)


def _encode(reason: str, message: str, exit_code: int) -> bytes:
    body = {"reason": reason, "message": message, "exitCode": exit_code}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
