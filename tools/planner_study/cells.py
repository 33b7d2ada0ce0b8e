"""Which runs the study is made of. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec
from pipemax_worker.engine.policies import POLICIES, WITHOUT_HOST_TIER
from pipemax_worker.planner.rivals import RIVALS

WORKLOADS = ("sharegpt", "longbench", "long-generation")
SYSTEMS = (*POLICIES, *RIVALS)
KV_DTYPES = {"bf16": "bfloat16", "fp8": "fp8_e4m3"}
ROTATING = ("fused", "pipemax")
WITHOUT_BUFFER = frozenset({*WITHOUT_HOST_TIER, *RIVALS} - {"seesaw"})
"""Systems that never move KV to the host."""

GROUNDS = (
    ("8x4090", "Llama-2-70B"),
    ("8x5090", "Llama-2-70B"),
    ("8xl20", "Llama-2-70B"),
    ("8x4090", "Qwen2.5-32B"),
    ("8x5090", "Mixtral-8x7B"),
    ("8xl20", "Mixtral-8x7B"),
    ("8xh100", "Qwen3-235B-A22B"),
    ("8x4090", "Mixtral-8x7B"),
    ("8x5090", "Qwen2.5-32B"),
    ("8xl20", "Qwen2.5-32B"),
)
"""(cards, model), those that tell most first."""

ABLATED = (
    ("8x4090", "Llama-2-70B", "sharegpt"),
    ("8x5090", "Llama-2-70B", "sharegpt"),
    ("8x4090", "Llama-2-70B", "long-generation"),
)
"""Where parts are taken away: weights nearly fill the cards, so that rotation has most to do."""

ABLATIONS = (
    "static-5",
    "static-10",
    "static-15",
    "static-20",
    "static-25",
    "layer-first",
    "count-balancing",
    "no-write-through",
    "no-ordering",
    "hidden-lengths",
)


class Cell(msgspec.Struct, frozen=True):
    """One system on one ground. ``kv``: bf16 or fp8. ``host``: whether it has a host tier."""

    hardware: str
    model: str
    workload: str
    system: str
    kv: str = "bf16"
    host: bool = True
    ablation: str = "whole"

    @property
    def name(self) -> str:
        """Of its file, and what ``--cells`` is matched with."""
        tier = "host" if self.host else "cards"
        parts = (self.hardware, self.model, self.workload, self.system, self.kv, tier)
        return "_".join((*parts, self.ablation))


def all_cells() -> tuple[Cell, ...]:
    """Ground by ground, those with all comparisons of the paper first."""
    cells: dict[str, Cell] = {}
    for kv in KV_DTYPES:
        for hardware, model in GROUNDS:
            for workload in WORKLOADS:
                for cell in _ground_cells(hardware, model, workload, kv):
                    cells[cell.name] = cell
        if kv == "bf16":
            cells |= {cell.name: cell for cell in _ablation_cells()}
    return tuple(cells.values())


def _ground_cells(hardware: str, model: str, workload: str, kv: str) -> Iterable[Cell]:
    for system in SYSTEMS:
        ground = Cell(hardware, model, workload, system, kv)
        if system not in WITHOUT_BUFFER:
            yield ground
        if system in (*WITHOUT_BUFFER, *ROTATING):
            yield msgspec.structs.replace(ground, host=False)


def _ablation_cells() -> Iterable[Cell]:
    for hardware, model, workload in ABLATED:
        for system in ROTATING:
            for ablation in ABLATIONS:
                if (system, ablation) != ("pipemax", "no-ordering"):  # it never orders
                    yield Cell(hardware, model, workload, system, ablation=ablation)


def select(cells: Iterable[Cell], patterns: str) -> tuple[Cell, ...]:
    """Those whose name matches one of the patterns, which are separated by commas."""
    wanted = patterns.split(",")
    return tuple(c for c in cells if any(fnmatchcase(c.name, one) for one in wanted))
