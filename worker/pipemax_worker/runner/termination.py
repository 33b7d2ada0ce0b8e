"""Why the process ended, for whoever reads a container's termination message."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

TERMINATION_LOG_VARIABLE = "PIPEMAX_TERMINATION_LOG"
MAX_MESSAGE_CHARACTERS = 3000  # Kubernetes keeps 4,096 bytes.


def write_termination_message(reason: str, message: str, exit_code: int) -> None:
    """Write ``{reason, message, exitCode}`` to the file that ``PIPEMAX_TERMINATION_LOG`` names.

    Does nothing where the variable is not set. A file that cannot be written is no reason to fail:
    the exit code still tells.
    """
    path = os.environ.get(TERMINATION_LOG_VARIABLE)
    if path is None:
        return
    body = {"reason": reason, "message": message[:MAX_MESSAGE_CHARACTERS], "exitCode": exit_code}
    with contextlib.suppress(OSError):
        Path(path).write_text(json.dumps(body), encoding="utf-8")
