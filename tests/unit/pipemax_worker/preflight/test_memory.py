"""Limits of memory, from control groups of both versions as they lie in containers and hosts."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from pipemax_worker.preflight.memory import (
    count_oom_kills,
    measure_memory,
    read_memory_limit,
)

MEMINFO = "MemTotal:       25165824 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       0\n"


class Kernel:
    """A machine's /sys/fs/cgroup and /proc."""

    def __init__(self, folder: Path) -> None:
        self.cgroup_root, self.proc = folder / "cgroup", folder / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text(MEMINFO, encoding="ascii")

    def belong_to(self, *lines: str) -> None:
        text = "".join(f"{line}\n" for line in lines)
        (self.proc / "self" / "cgroup").write_text(text, encoding="ascii")

    def write(self, path: str, text: str) -> None:
        file = self.cgroup_root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="ascii")

    def limit(self) -> int | None:
        return read_memory_limit(self.cgroup_root, self.proc)

    def kills(self) -> int | None:
        return count_oom_kills(self.cgroup_root, self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_version_2_the_lowest_limit_on_the_way_up_holds(kernel: Kernel) -> None:
    kernel.belong_to("0::/pods/worker")
    kernel.write("pods/worker/memory.max", "max\n")
    assert kernel.limit() is None
    kernel.write("pods/memory.max", "4096\n")
    assert kernel.limit() == 4096
    kernel.write("pods/worker/memory.max", "2048\n")
    assert kernel.limit() == 2048


def test_version_1_in_a_container_that_sees_its_own_group_as_the_root(kernel: Kernel) -> None:
    kernel.belong_to("7:cpu,cpuacct:/kubepods/x", "5:memory:/kubepods/pod1/worker", "1:name=y:/")
    kernel.write("memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert kernel.limit() is None, "the largest number means no limit"
    kernel.write("memory/memory.limit_in_bytes", "1048576\n")
    assert kernel.limit() == 1048576


def test_version_1_on_a_host(kernel: Kernel) -> None:
    kernel.belong_to("5:memory:/kubepods/pod1")
    kernel.write("memory/memory.limit_in_bytes", "9223372036854771712\n")
    kernel.write("memory/kubepods/pod1/memory.limit_in_bytes", "512\n")
    kernel.write("cpu/kubepods/pod1/memory.limit_in_bytes", "1\n")
    assert kernel.limit() == 512


def test_no_control_groups_no_limit(kernel: Kernel) -> None:
    assert kernel.limit() is None
    assert kernel.kills() is None


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("0::/w", "w/memory.events", "low 0\nhigh 2\nmax 9\noom 3\noom_kill 3\noom_group_kill 0\n"),
        (
            "4:memory:/w",
            "memory/w/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        ),
    ],
)
def test_kills_for_lack_of_memory(kernel: Kernel, line: str, file: str, text: str) -> None:
    kernel.belong_to(line)
    kernel.write(file, text)
    assert kernel.kills() == 3


def test_all_that_is_measured(kernel: Kernel, tmp_path: Path) -> None:
    kernel.belong_to("0::/")
    kernel.write("memory.max", "1024\n")
    found = measure_memory(kernel.cgroup_root, kernel.proc, tmp_path)
    assert (found.limit, found.total, found.available) == (1024, 24 << 30, 8 << 30)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert found.memlock == (None if soft == resource.RLIM_INFINITY else soft)
    assert found.shared_size is not None
    assert found.shared_free is not None
    assert found.shared_free <= found.shared_size


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    found = measure_memory(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert (found.limit, found.total, found.shared_size) == (None, None, None)


def test_this_machine() -> None:
    found = measure_memory()
    assert found.total is not None
    assert found.available is not None
    assert 0 < found.available <= found.total
