"""From what was measured to a profile of the node. What cannot be measured is taken over from a
card of the same name or assumed, and ``sources`` says which. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from pipemax_worker.performance.node_profile import NodeProfile, load_node_profile
from pipemax_worker.planner.detection.cpu import CpuSpeeds
from pipemax_worker.planner.detection.gpus import GpuSpeeds, ListedGpu, known_card
from pipemax_worker.preflight.facts import MemoryFacts, NvmeFacts

_HELD_SHARE = 0.9
"""Of what a card reaches alone: from here on all at once are as fast as one."""

_OVERHEADS_OF = "h200"
_ASSUMED_MEMORY_BYTES = 16 << 30
_ASSUMED_WRITE, _ASSUMED_READ = 0.5e9, 0.8e9
_CPU_CORE_WATTS, _CPU_IDLE_WATTS, _CPU_HOST_WATTS = 12.0, 2.0, 60.0
_CPU_CORE_PRICE = 0.03
_CPU_STEP_SECONDS, _CPU_HOP_SECONDS = 2e-3, 2e-4
_HOST_WATTS_WITH_GPUS = 600.0
_UNKNOWN_CARD_WATTS, _UNKNOWN_CARD_PRICE = 300.0, 1.0


def profile_cpu(speeds: CpuSpeeds, memory: MemoryFacts, disk: NvmeFacts | None) -> NodeProfile:
    """A node whose stages are processes on cores."""
    memory_bytes = _memory_bytes(memory)
    return NodeProfile.model_validate(
        {
            "name": "cpu",
            "title": f"this machine's processor, {speeds.num_stages} stages of one thread",
            "device": "cpu",
            "num_gpus": speeds.num_stages,
            "gpu": {
                "memory_bytes": memory_bytes // speeds.num_stages,
                "memory_bandwidth_bytes_per_second": speeds.read,
                "memory_efficiency": 1.0,
                "flops_per_second": speeds.flops,
                "flops_efficiency": 1.0,
                "step_overhead_seconds": _CPU_STEP_SECONDS,
                "power_watts": _CPU_CORE_WATTS,
                "idle_power_watts": _CPU_IDLE_WATTS,
                "price_per_hour": _CPU_CORE_PRICE,
            },
            "link": {
                "host_to_device_bytes_per_second": speeds.copy,
                "device_to_host_bytes_per_second": speeds.copy,
                "hop_latency_seconds": _CPU_HOP_SECONDS,
                "hop_bytes_per_second": speeds.copy / 2,
            },
            "host": _host(memory_bytes, speeds.copy * speeds.num_stages, disk, _CPU_HOST_WATTS),
            "sources": (
                f"measured: products in float32, reading and copying memory, {speeds.num_stages} "
                "programs of one thread at once",
                _disk_source(disk),
                "assumed: 2 ms a step, 0.2 ms a hop, power and price",
            ),
        }
    )


def profile_gpus(
    gpus: Sequence[ListedGpu], speeds: GpuSpeeds, memory: MemoryFacts, disk: NvmeFacts | None
) -> NodeProfile:
    """A node of these GPUs, which are all of one kind."""
    first, card = gpus[0], known_card(gpus[0].name)
    base = load_node_profile(card or _OVERHEADS_OF)
    gpu = base.gpu.model_dump() | {
        "memory_bytes": min(one.memory_bytes for one in gpus),
        "memory_bandwidth_bytes_per_second": speeds.memory,
        "memory_efficiency": 1.0,
        "flops_per_second": speeds.flops,
        "flops_efficiency": 1.0,
        "power_watts": first.power_watts or (base.gpu.power_watts if card else _UNKNOWN_CARD_WATTS),
    }
    if card is None:
        gpu |= {
            "gemm_weight_bytes": None,
            "gemm_seconds": {},
            "price_per_hour": _UNKNOWN_CARD_PRICE,
        }
        gpu["idle_power_watts"] = min(gpu["idle_power_watts"], gpu["power_watts"])
    link = base.link.model_dump() | {
        "host_to_device_bytes_per_second": speeds.load_alone,
        "device_to_host_bytes_per_second": speeds.store_alone,
        "gpus_per_uplink": 1,
    }
    host = _host(_memory_bytes(memory), host_copy_rate(speeds), disk, _HOST_WATTS_WITH_GPUS)
    taken = f"the profile {card!r}" if card else f"the profile {_OVERHEADS_OF!r}, another card"
    return NodeProfile.model_validate(
        {
            "name": card or "detected",
            "title": f"{first.name}, as detected",
            "num_gpus": len(gpus),
            "gpu": gpu,
            "link": link,
            "host": host,
            "sources": (
                "nvidia-smi: name, memory, limit of power",
                "measured: copies within a card, to and from it alone, with all cards at once; "
                "matrix products in bfloat16",
                _disk_source(disk),
                f"taken over from {taken}: overheads, tiles, the hop between cards, idle power",
                "assumed: the host's power, and the price if the card has no profile",
            ),
        }
    )


def host_copy_rate(speeds: GpuSpeeds) -> float:
    """Of the host's memory for all cards, both ways. Where all at once are slower than one alone,
    what they reach together is the limit; else both directions together is what is known of it."""
    loads, stores = sum(speeds.loads), sum(speeds.stores)
    is_limit = loads < _HELD_SHARE * speeds.load_alone * len(speeds.loads)
    return max(loads, stores) if is_limit else loads + stores


def _host(
    memory_bytes: int, copy_rate: float, disk: NvmeFacts | None, power_watts: float
) -> dict[str, Any]:
    read = disk.read_bytes_per_second if disk is not None else None
    write = disk.write_bytes_per_second if disk is not None else None
    return {
        "memory_bytes": memory_bytes,
        "copy_bytes_per_second": copy_rate,
        "nvme_read_bytes_per_second": read or _ASSUMED_READ,
        "nvme_write_bytes_per_second": write or _ASSUMED_WRITE,
        "power_watts": power_watts,
    }


def _memory_bytes(memory: MemoryFacts) -> int:
    """What this process may use: its control group's limit, or all there is."""
    known = [size for size in (memory.limit, memory.total) if size]
    return min(known, default=_ASSUMED_MEMORY_BYTES)


def _disk_source(disk: NvmeFacts | None) -> str:
    if disk is None or disk.read_bytes_per_second is None:
        return "assumed: the disk (name a folder on it to have it measured)"
    cache = "past the page cache" if disk.is_direct else "through the page cache"
    return f"measured: the disk of {disk.place}, 64 MiB at most, {cache}"


def render_profile(profile: NodeProfile) -> str:
    """As YAML that ``parse_node_profile`` reads."""
    fields = profile.model_dump(mode="json", exclude_none=True)
    return str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100))
