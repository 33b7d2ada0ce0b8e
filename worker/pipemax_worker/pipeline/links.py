"""Where the sockets of a pipeline are: one folder of ipc endpoints for each pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.errors import InvariantError

MAX_IPC_PATH_BYTES = 100
"""Unix socket paths end at 107 bytes, whatever the file system allows."""


def make_socket_folder() -> Path:
    """A new private folder whose socket paths are short enough; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix="pipemax-"))
    if len(bytes(folder / "feedback")) <= MAX_IPC_PATH_BYTES:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="pipemax-", dir="/tmp"))


def assign_addresses(configs: Sequence[StageConfig], folder: Path) -> tuple[StageConfig, ...]:
    """The same configurations with the endpoints of every link, and NCCL's meeting place on GPUs.

    Raises InvariantError if ``configs`` are not those of one whole pipeline, in order.
    """
    if [config.stage for config in configs] != list(range(len(configs))) or any(
        config.num_stages != len(configs) for config in configs
    ):
        raise InvariantError("stage configurations must be those of stages 0, 1, ... of a pipeline")
    last = len(configs) - 1
    is_ring = last > 0
    joins_by_nccl = all(c.uses_nccl and c.device.startswith("cuda") for c in configs)
    return tuple(
        msgspec.structs.replace(
            config,
            input_address=_endpoint(folder, f"input-{stage}"),
            event_address=_endpoint(folder, "events"),
            hidden_in_address=_endpoint(folder, f"hidden-{stage}") if stage > 0 else None,
            hidden_out_address=_endpoint(folder, f"hidden-{stage + 1}") if stage < last else None,
            feedback_address=(
                _endpoint(folder, "feedback") if is_ring and stage in (0, last) else None
            ),
            rendezvous=f"file://{folder / 'rendezvous'}" if is_ring and joins_by_nccl else None,
        )
        for stage, config in enumerate(configs)
    )


def _endpoint(folder: Path, name: str) -> str:
    return f"ipc://{folder / name}"
