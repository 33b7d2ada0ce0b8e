"""What a policy is shown, for tests of what it makes of it."""

from __future__ import annotations

from typing import Any

from pipemax_worker.engine.view import SchedulerView


def make_view(**settings: Any) -> SchedulerView:
    """Nothing to do and room for all; ``settings``: the fields that matter to a test, ``predict``
    among them."""
    defaults: dict[str, Any] = {
        "micro_batch_id": 0,
        "ready": (),
        "waiting": (),
        "lacking": (),
        "preemptible": (),
        "token_target": 16,
        "max_num_requests": 8,
        "block_tokens": 4,
        "slot_bytes": 1000,
        "num_unfinished": 10,
        "num_unreserved_blocks": 100,
        "num_allocatable_blocks": 100,
        "num_returning_blocks": 0,
        "num_nvme_blocks": 0,
        "micro_batch_seconds": (0.01, 0.01),
        "load_bytes_per_second": 1e6,
        "demote_bytes_per_second": 1e6,
        "promote_bytes_per_second": 1e6,
        "num_live_blocks": 100,
    }
    return SchedulerView(**(defaults | settings))
