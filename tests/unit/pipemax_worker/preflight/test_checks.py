"""What a machine lacks is told with what helps; what nobody measured stops nobody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pipemax_worker.preflight.checks import derive_findings
from pipemax_worker.preflight.facts import (
    GpuFacts,
    MachineFacts,
    MemoryFacts,
    Needs,
    NvmeFacts,
)
from pipemax_worker.preflight.findings import Finding, Severity, select

GIB = 1 << 30
OK, WARNING, FATAL = Severity.OK, Severity.WARNING, Severity.FATAL

NEEDS = Needs(device="cuda", num_stages=8, host_kv_bytes=256 * GIB, nvme_kv_bytes=1024 * GIB)
NVME = NvmeFacts(
    place="/nvme",
    free_bytes=2048 * GIB,
    is_direct=True,
    write_bytes_per_second=5e9,
    read_bytes_per_second=7e9,
)
GPUS = tuple(GpuFacts(f"GPU-{number}", 24 * GIB, 0) for number in range(8))
MEMORY = MemoryFacts(
    limit=288 * GIB,
    total=512 * GIB,
    available=500 * GIB,
    memlock=None,
    shared_size=8 * GIB,
    shared_free=8 * GIB,
)
FACTS = MachineFacts(memory=MEMORY, nvme=NVME, gpus=GPUS)


def findings(facts: MachineFacts = FACTS, **needs: Any) -> dict[str, Finding]:
    """By check; the gravest of each."""
    order = (OK, WARNING, FATAL)
    found = derive_findings(msgspec.structs.replace(NEEDS, **needs), facts)
    return {one.check: one for one in sorted(found, key=lambda one: order.index(one.severity))}


def with_memory(**memory: Any) -> MachineFacts:
    return msgspec.structs.replace(FACTS, memory=msgspec.structs.replace(MEMORY, **memory))


def with_nvme(**nvme: Any) -> MachineFacts:
    return msgspec.structs.replace(FACTS, nvme=msgspec.structs.replace(NVME, **nvme))


def with_gpus(*gpus: GpuFacts) -> MachineFacts:
    return msgspec.structs.replace(FACTS, gpus=gpus)


def test_a_machine_that_has_all() -> None:
    found = findings()
    assert {one.severity for one in found.values()} == {OK}
    assert found.keys() == {
        *("gpus", "memory", "shared-memory", "memlock", "nvme", "nvme-speed", "io_uring")
    }


def test_every_complaint_says_what_helps() -> None:
    bad = MachineFacts(
        memory=MemoryFacts(1, 1, 1, 1, 1, 1),
        io_uring_fault="EPERM",
        nvme=NvmeFacts("/nvme", 1, False, 1.0, 1.0),
        gpus=tuple(GpuFacts(f"GPU-{n}", GIB * (n + 1), 2 * GIB, "gone") for n in range(8)),
    )
    found = derive_findings(NEEDS, bad)
    assert len(select(found, FATAL)) >= 4
    for one in (*select(found, FATAL), *select(found, WARNING)):
        assert one.remedy, one
        assert one.remedy in one.describe()


def test_nothing_measured_nothing_said() -> None:
    blind = MachineFacts(memory=MemoryFacts(), gpus=GPUS)
    assert not select(derive_findings(NEEDS, blind), FATAL)
    assert not select(derive_findings(NEEDS, blind), WARNING)


@pytest.mark.parametrize(
    ("memory", "severity", "named"),
    [
        ({"limit": 255 * GIB}, FATAL, "the container's limit is 255.0 GiB"),
        ({"limit": 260 * GIB}, WARNING, "the container's limit is 260.0 GiB"),
        ({"limit": None, "total": 200 * GIB}, FATAL, "the machine's memory is 200.0 GiB"),
        ({"limit": 288 * GIB}, OK, "256.0 GiB"),
    ],
)
def test_memory_against_its_limit(
    memory: dict[str, int | None], severity: Severity, named: str
) -> None:
    found = findings(with_memory(**memory))["memory"]
    assert found.severity is severity
    assert named in found.message


def test_what_the_cpu_computes_with_is_host_memory_too() -> None:
    needs = {"device": "cpu", "host_kv_bytes": 4 * GIB, "num_stages": 1, "nvme_kv_bytes": 0}
    small = with_memory(limit=8 * GIB)
    assert findings(small, **needs)["memory"].severity is OK
    tier = needs | {"host_device_kv_bytes": 5 * GIB}
    assert findings(small, **tier)["memory"].severity is FATAL
    weights = needs | {"host_weight_bytes": 5 * GIB}
    assert findings(small, **weights)["memory"].severity is WARNING, "they may be shared pages"


def test_other_programs_may_have_taken_the_memory() -> None:
    found = findings(with_memory(available=100 * GIB))["available-memory"]
    assert found.severity is WARNING
    assert "100.0 GiB" in found.message
    assert "available-memory" not in findings()


def test_locked_memory_matters_for_gpus_alone() -> None:
    low = with_memory(memlock=8 << 20)
    found = findings(low)["memlock"]
    assert found.severity is WARNING
    assert "LimitMEMLOCK" in found.remedy
    assert "memlock" not in findings(low, device="cpu")
    assert "memlock" not in findings(low, host_kv_bytes=0, nvme_kv_bytes=0)
    embedding = findings(low, host_kv_bytes=0, nvme_kv_bytes=0, host_weight_bytes=GIB)["memlock"]
    assert "1.0 GiB of host memory are to be pinned" in embedding.message


@pytest.mark.parametrize(("free", "severity"), [(64 << 20, FATAL), (256 << 20, WARNING), (GIB, OK)])
def test_shared_memory_between_gpus(free: int, severity: Severity) -> None:
    facts = with_memory(shared_free=free)
    assert findings(facts)["shared-memory"].severity is severity
    assert "shared-memory" not in findings(facts, num_stages=1)
    assert "shared-memory" not in findings(facts, device="cpu")


@pytest.mark.parametrize(
    ("nvme", "check", "severity", "named"),
    [
        ({"free_bytes": 1023 * GIB}, "nvme", FATAL, "lower kvCache.nvme.size"),
        ({"fault": "Permission denied"}, "nvme", FATAL, "Permission denied"),
        ({"read_bytes_per_second": 2e8}, "nvme-speed", WARNING, "local NVMe"),
        ({"is_direct": False}, "nvme-speed", WARNING, "ext4 or xfs"),
        ({"write_bytes_per_second": 1e9}, "parking", WARNING, "gracePeriodSeconds to 412"),
    ],
)
def test_the_disk(nvme: dict[str, Any], check: str, severity: Severity, named: str) -> None:
    found = findings(with_nvme(**nvme))[check]
    assert found.severity is severity
    assert named in found.describe()


def test_a_disk_is_looked_at_for_its_tier_alone() -> None:
    assert not {"nvme", "nvme-speed", "parking"} & findings(nvme_kv_bytes=0).keys()
    assert "nvme-speed" not in findings(with_nvme(write_bytes_per_second=None))


def test_any_disk_is_fast_enough_for_a_cpu() -> None:
    slow = with_nvme(write_bytes_per_second=1e8, read_bytes_per_second=1e8, is_direct=False)
    found = findings(slow, device="cpu", host_kv_bytes=GIB, num_stages=1)
    assert found["nvme-speed"].severity is OK


def test_too_few_gpus() -> None:
    found = findings(with_gpus(*GPUS[:7]))["gpus"]
    assert found.severity is FATAL
    assert "8 stages need as many GPUs, and 7 are visible" in found.message
    assert "gpus" not in findings(with_gpus(), device="cpu")


def test_a_lost_gpu_has_its_name_and_another_check() -> None:
    ill = GpuFacts("GPU-7", 24 * GIB, None, "nvidia-smi cannot read it")
    found = findings(with_gpus(*GPUS[:7], ill))
    assert found["gpu-lost"].severity is FATAL
    assert "GPU-7" in found["gpu-lost"].message
    assert "gpus" not in found
    assert "gpu-lost" not in findings(with_gpus(*GPUS[:7], ill), num_stages=7), "not in use"


def test_gpus_that_are_in_use_or_uneven() -> None:
    taken = GpuFacts("GPU-taken", 24 * GIB, 5 * GIB)
    found = findings(with_gpus(taken, *GPUS[:7]))["gpu-memory"]
    assert (found.severity, "GPU-taken" in found.message) == (WARNING, True)
    small = GpuFacts("GPU-small", 16 * GIB, 0)
    found = findings(with_gpus(small, *GPUS[:7]))["gpu-memory"]
    assert (found.severity, "from 16.0 GiB to 24.0 GiB" in found.message) == (WARNING, True)
    unknown = GpuFacts("GPU-x", 24 * GIB, None)
    assert "gpu-memory" not in findings(with_gpus(unknown, *GPUS[:7]))


def test_io_uring_is_told_and_never_missed() -> None:
    found = findings(msgspec.structs.replace(FACTS, io_uring_fault="EPERM: forbidden"))["io_uring"]
    assert found.severity is OK
    assert "EPERM" in found.message
