"""How a turn is composed, by name. A policy is pure: a view in, a composition out."""

from __future__ import annotations

from collections.abc import Callable

from pipemax_worker.engine.policies.fused import FusedPolicy
from pipemax_worker.engine.policies.pipemax import PipeMaxPolicy
from pipemax_worker.engine.policies.tdpipe import TDPipePolicy
from pipemax_worker.engine.policies.vllm import VLLMPolicy
from pipemax_worker.engine.view import Policy
from pipemax_worker.errors import JobFileError

POLICIES: dict[str, Callable[[], Policy]] = {
    "fused": FusedPolicy,
    "pipemax": PipeMaxPolicy,
    "tdpipe": TDPipePolicy,
    "vllm": VLLMPolicy,
}


WITHOUT_HOST_TIER = frozenset({"tdpipe", "vllm"})
"""Policies that never move KV: they are given a device tier alone."""


def build_policy(name: str) -> Policy:
    """The policy called ``name``. Raises JobFileError with the names there are."""
    if name not in POLICIES:
        raise JobFileError(
            f"spec.engine.policy: {name!r} is unknown; choose one of {', '.join(sorted(POLICIES))}"
        )
    return POLICIES[name]()
