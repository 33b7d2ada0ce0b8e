"""Limits of memory: control groups (versions 1 and 2), /proc/meminfo, locked memory, /dev/shm."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from pipemax_worker.preflight.facts import MemoryFacts

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")

_UNLIMITED_BYTES = 1 << 60
"""Version 1 says "no limit" with the largest number of pages."""


def measure_memory(
    cgroup_root: Path = CGROUP_ROOT, proc: Path = PROC, shared_memory: Path = SHARED_MEMORY
) -> MemoryFacts:
    """What can be known; nothing is raised for what cannot."""
    shared_size, shared_free = _measure_file_system(shared_memory)
    meminfo = _read_meminfo(proc / "meminfo")
    return MemoryFacts(
        limit=read_memory_limit(cgroup_root, proc),
        total=meminfo.get("MemTotal"),
        available=meminfo.get("MemAvailable"),
        memlock=_memlock_bytes(),
        shared_size=shared_size,
        shared_free=shared_free,
    )


def read_memory_limit(cgroup_root: Path = CGROUP_ROOT, proc: Path = PROC) -> int | None:
    """The lowest limit of this process's control group and of those above it; None: there is none.

    The name of the control group may be the host's, which a container does not see: then the limit
    is looked for at the root, which is the container's own.
    """
    limits = []
    for folder in _memory_cgroups(cgroup_root, proc):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < _UNLIMITED_BYTES:
                limits.append(int(text))
    return min(limits, default=None)


def count_oom_kills(cgroup_root: Path = CGROUP_ROOT, proc: Path = PROC) -> int | None:
    """Processes that the kernel has killed in this control group for lack of memory; None if it
    does not say. More than before means: one of ours, or of who else is in it."""
    for folder in _memory_cgroups(cgroup_root, proc):
        for name in ("memory.events", "memory.oom_control"):
            for line in _read(folder / name).splitlines():
                key, _, count = line.partition(" ")
                if key == "oom_kill" and count.isdigit():
                    return int(count)
    return None


def _memory_cgroups(cgroup_root: Path, proc: Path) -> Iterator[Path]:
    """Folders of this process's control group, the innermost first, and the roots."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroup_root / "memory" if controllers else cgroup_root
        own = root / name.strip("/")
        yield own
        yield from (folder for folder in own.parents if folder.is_relative_to(root))
    yield cgroup_root / "memory"
    yield cgroup_root


def _memlock_bytes() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def _measure_file_system(folder: Path) -> tuple[int | None, int | None]:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None, None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def _read_meminfo(path: Path) -> dict[str, int]:
    """Name -> bytes."""
    amounts = {}
    for line in _read(path).splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            amounts[name] = int(words[0]) * 1024
    return amounts


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
