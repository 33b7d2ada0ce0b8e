"""Can this machine run the job? ``derive_findings(needs, facts)``. Pure.

Fatal is only what cannot work; what may be slow or may fail is a warning. What nobody could measure
is passed over: a check that guesses would stop jobs that run.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.preflight.facts import MachineFacts, Needs
from pipemax_worker.preflight.findings import Finding, Severity
from pipemax_worker.preflight.gpu_checks import check_gpus, check_shared_memory
from pipemax_worker.preflight.nvme_checks import check_nvme
from pipemax_worker.preflight.sizes import describe_bytes

PROCESS_BYTES = {"cpu": 192 << 20, "cuda": 1 << 30}
"""Host memory of a stage besides its tiers: interpreter, libraries, CUDA's share of the host."""

DRIVER_BYTES = 512 << 20
"""Of the driver: tokenizer, grammars, requests in flight."""


def derive_findings(needs: Needs, facts: MachineFacts) -> tuple[Finding, ...]:
    """One for each check that applies, in the order in which a person would look."""
    return (
        *check_gpus(needs, facts.gpus),
        *_check_memory_limit(needs, facts),
        *_check_available_memory(needs, facts),
        *check_shared_memory(needs, facts.memory),
        *_check_memlock(needs, facts),
        *check_nvme(needs, facts.nvme),
        _describe_io_uring(facts.io_uring_fault),
    )


def _check_memory_limit(needs: Needs, facts: MachineFacts) -> Iterator[Finding]:
    """The tiers are touched at the start: what does not fit is killed and says no word of it."""
    memory = facts.memory
    limits = [(memory.limit, "the container's limit"), (memory.total, "the machine's memory")]
    known = [(limit, name) for limit, name in limits if limit is not None]
    if not known:
        return
    limit, name = min(known)
    tiers = needs.host_kv_bytes + needs.host_device_kv_bytes
    others = needs.num_stages * PROCESS_BYTES[needs.device] + DRIVER_BYTES
    total = tiers + needs.host_weight_bytes + others
    told = (
        f"KV tiers take {describe_bytes(tiers)} of host memory, with weights and processes about "
        f"{describe_bytes(total)}, and {name} is {describe_bytes(limit)}"
    )
    remedy = "lower kvCache.host, or raise the worker's memory (values: worker.memoryOverhead)"
    if tiers > limit:
        yield Finding("memory", Severity.FATAL, told, remedy)
    elif total > limit:
        yield Finding("memory", Severity.WARNING, told, remedy)
    else:
        yield Finding("memory", Severity.OK, told)


def _check_available_memory(needs: Needs, facts: MachineFacts) -> Iterator[Finding]:
    available = facts.memory.available
    tiers = needs.host_kv_bytes + needs.host_device_kv_bytes
    if available is not None and tiers > available:
        yield Finding(
            "available-memory",
            Severity.WARNING,
            f"KV tiers take {describe_bytes(tiers)} of host memory, of which other programs leave "
            f"{describe_bytes(available)} now",
            "lower kvCache.host, or end what else runs on this machine",
        )


def _check_memlock(needs: Needs, facts: MachineFacts) -> Iterator[Finding]:
    """CUDA's driver pins without asking for the limit in most set-ups: a warning, not the end."""
    limit = facts.memory.memlock
    pinned_bytes = needs.host_kv_bytes + needs.host_weight_bytes
    if needs.device != "cuda" or not pinned_bytes:
        return
    if limit is None or limit >= pinned_bytes:
        told = "no limit" if limit is None else describe_bytes(limit)
        yield Finding("memlock", Severity.OK, f"limit of locked memory: {told}")
        return
    yield Finding(
        "memlock",
        Severity.WARNING,
        f"the limit of locked memory is {describe_bytes(limit)}, and "
        f"{describe_bytes(pinned_bytes)} of host memory are to be pinned; if that fails",
        "set LimitMEMLOCK=infinity for the container runtime of the node (ulimit -l unlimited)",
    )


def _describe_io_uring(fault: str | None) -> Finding:
    """The NVMe tier reads and writes with preadv and pwritev: nothing is lost without it."""
    told = "available" if fault is None else f"not available ({fault}); the NVMe tier does without"
    return Finding("io_uring", Severity.OK, told)
