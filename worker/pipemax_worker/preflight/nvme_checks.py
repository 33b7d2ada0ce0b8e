"""The NVMe tier: can it be written, has it room, is it fast enough? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.preflight.facts import Needs, NvmeFacts
from pipemax_worker.preflight.findings import Finding, Severity
from pipemax_worker.preflight.sizes import describe_bytes

SLOW_BYTES_PER_SECOND = 500e6
"""A SATA disk's: KV that comes back slower than that costs a GPU more than computing it anew."""


def check_nvme(needs: Needs, nvme: NvmeFacts | None) -> Iterator[Finding]:
    """Nothing where the job has no such tier."""
    if not needs.nvme_kv_bytes or nvme is None:
        return
    if nvme.fault is not None:
        yield Finding(
            "nvme",
            Severity.FATAL,
            f"{nvme.place} cannot be written: {nvme.fault}",
            "choose another folder for kvCache.nvme, or see to its disk and its rights",
        )
        return
    yield _check_space(needs, nvme)
    yield from _check_speed(needs, nvme)
    yield from _check_parking(needs, nvme)


def _check_space(needs: Needs, nvme: NvmeFacts) -> Finding:
    told = (
        f"{nvme.place} has {describe_bytes(nvme.free_bytes)} free, and kvCache.nvme.size is "
        f"{describe_bytes(needs.nvme_kv_bytes)}"
    )
    if nvme.free_bytes < needs.nvme_kv_bytes:
        return Finding("nvme", Severity.FATAL, told, "free the disk or lower kvCache.nvme.size")
    return Finding("nvme", Severity.OK, told)


def _check_speed(needs: Needs, nvme: NvmeFacts) -> Iterator[Finding]:
    """A CPU computes so slowly that any disk keeps up with it."""
    rates = (nvme.write_bytes_per_second, nvme.read_bytes_per_second)
    write_rate, read_rate = (0.0 if rate is None else rate for rate in rates)
    if not write_rate or not read_rate:
        return
    way = "past the page cache" if nvme.is_direct else "through the page cache"
    told = (
        f"{nvme.place} writes {describe_bytes(write_rate)}/s and reads "
        f"{describe_bytes(read_rate)}/s, {way}"
    )
    if needs.device == "cuda" and min(write_rate, read_rate) < SLOW_BYTES_PER_SECOND:
        remedy = "use a local NVMe drive, or leave kvCache.nvme out"
        yield Finding("nvme-speed", Severity.WARNING, told, remedy)
    elif needs.device == "cuda" and not nvme.is_direct:
        remedy = "use ext4 or xfs: this file system has no direct I/O, and copies take host memory"
        yield Finding("nvme-speed", Severity.WARNING, told, remedy)
    else:
        yield Finding("nvme-speed", Severity.OK, told)


def _check_parking(needs: Needs, nvme: NvmeFacts) -> Iterator[Finding]:
    """A stop moves what the host tier holds to the disk, and has the grace period for it."""
    if not nvme.write_bytes_per_second:
        return
    num_bytes = min(needs.host_kv_bytes, needs.nvme_kv_bytes)
    seconds = num_bytes / nvme.write_bytes_per_second
    if seconds > needs.grace_period_seconds:
        yield Finding(
            "parking",
            Severity.WARNING,
            f"parking {describe_bytes(num_bytes)} of KV takes about {seconds:.0f} s, and "
            f"gracePeriodSeconds is {needs.grace_period_seconds:.0f}: the rest is computed again",
            f"set gracePeriodSeconds to {seconds * 1.5:.0f}",
        )
