"""Hardware that can be planned for: one YAML file a card, with the node that it usually sits in.

Shipped as package data in ``profiles/``; every number has its source in the file. Efficiencies turn
nominal into reachable: they are measured where the file says so, and else taken over from the cards
that were measured.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipemax_worker.errors import JobFileError
from pipemax_worker.performance.hardware import HardwareProfile
from pipemax_worker.performance.step_cost import RooflineCost, StageCost, StepCost
from pipemax_worker.performance.step_table import GemmTable, TableCost

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

_PACKAGE = "pipemax_worker.performance"
_HARDWARE = re.compile(r"(?:(\d+)x)?([a-z0-9-]+)")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GpuProfile(_Part):
    """One card. ``gemm_seconds``: tokens -> seconds over ``gemm_weight_bytes``, if measured."""

    memory_bytes: Annotated[int, Field(gt=0)]
    memory_bandwidth_bytes_per_second: Positive
    memory_efficiency: Share
    flops_per_second: Positive
    flops_efficiency: Share
    tile_tokens: Annotated[int, Field(ge=0)] = 0
    gemm_weight_bytes: int | None = None
    gemm_seconds: dict[int, Positive] = {}
    step_overhead_seconds: NotNegative
    layer_overhead_seconds: NotNegative = 0.0
    power_watts: Positive
    idle_power_watts: Positive
    price_per_hour: Positive


class LinkProfile(_Part):
    """One card's link to the host, and the hop to the next stage.

    gpus_per_uplink   cards that share one link of the same speed to the host's memory.
    has_peer_access   cards reach each other's memory; else a hop goes through the host's.
    """

    host_to_device_bytes_per_second: Positive
    device_to_host_bytes_per_second: Positive
    gpus_per_uplink: Annotated[int, Field(ge=1)] = 1
    hop_latency_seconds: NotNegative
    hop_bytes_per_second: Positive
    has_peer_access: bool = False


class HostProfile(_Part):
    """The node. ``copy_bytes_per_second``: of its memory, for copies of all cards, both ways
    together. ``power_watts`` without the cards."""

    memory_bytes: Annotated[int, Field(gt=0)]
    copy_bytes_per_second: Positive
    nvme_read_bytes_per_second: Positive
    nvme_write_bytes_per_second: Positive
    power_watts: Positive


class NodeProfile(_Part):
    """``num_gpus`` cards of one kind in one host. ``sources``: where the numbers are from.
    ``device`` cpu: its cards are cores, and what is said of cards is said of those."""

    name: str
    title: str
    device: Literal["cuda", "cpu"] = "cuda"
    num_gpus: Annotated[int, Field(ge=1, le=64)] = 8
    gpu: GpuProfile
    link: LinkProfile
    host: HostProfile
    sources: tuple[str, ...]

    def stage_profile(self) -> HardwareProfile:
        """What one stage gets while all of them compute and copy."""
        gpu, link, host = self.gpu, self.link, self.host
        host_share = host.copy_bytes_per_second / self.num_gpus
        sharers = min(link.gpus_per_uplink, self.num_gpus)
        return HardwareProfile(
            name=self.name,
            memory_bandwidth_bytes_per_second=gpu.memory_bandwidth_bytes_per_second
            * gpu.memory_efficiency,
            flops_per_second=gpu.flops_per_second * gpu.flops_efficiency,
            host_to_device_bytes_per_second=min(
                link.host_to_device_bytes_per_second / sharers, host_share
            ),
            device_to_host_bytes_per_second=min(
                link.device_to_host_bytes_per_second / sharers, host_share
            ),
            host_to_nvme_bytes_per_second=host.nvme_write_bytes_per_second / self.num_gpus,
            nvme_to_host_bytes_per_second=host.nvme_read_bytes_per_second / self.num_gpus,
            step_overhead_seconds=gpu.step_overhead_seconds,
            layer_overhead_seconds=gpu.layer_overhead_seconds,
            tile_tokens=gpu.tile_tokens,
        )

    def step_cost(self, stages: list[StageCost]) -> StepCost:
        """The measured table where there is one, the roofline where not."""
        gpu, profile = self.gpu, self.stage_profile()
        if gpu.gemm_weight_bytes is None or not gpu.gemm_seconds:
            return RooflineCost(profile, stages)
        table = GemmTable(gpu.gemm_weight_bytes, tuple(sorted(gpu.gemm_seconds.items())))
        return TableCost(profile, table, stages)


def hardware_names() -> tuple[str, ...]:
    """Cards that have a profile."""
    folder = resources.files(_PACKAGE) / "profiles"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_node_profile(hardware: str) -> NodeProfile:
    """``8x4090``, ``4090`` (as many as the file says). Raises JobFileError with the names there
    are."""
    match = _HARDWARE.fullmatch(hardware.lower())
    if match is None or match[2] not in hardware_names():
        raise JobFileError(
            f"hardware {hardware!r} is unknown; give a number and a card, for example 8x4090; "
            f"cards: {', '.join(hardware_names())}"
        )
    path = resources.files(_PACKAGE) / "profiles" / f"{match[2]}.yaml"
    profile = parse_node_profile(path.read_text(encoding="utf-8"), f"{match[2]}.yaml")
    if match[1] is None:
        return profile
    count = int(match[1])
    if not 1 <= count <= 64:
        raise JobFileError(f"hardware {hardware!r}: the number of cards must be 1 to 64")
    return profile.model_copy(update={"num_gpus": count})


def parse_node_profile(text: str, where: str) -> NodeProfile:
    """Raises JobFileError that names ``where`` and each faulty field."""
    try:
        return NodeProfile.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise JobFileError(f"{where}: not YAML: {error}") from None
    except ValidationError as error:
        lines = (
            f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()
        )
        raise JobFileError("\n".join(lines)) from None
