"""A run's timeline as block characters, 80 columns wide. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.planner.timeline import (
    Timeline,
    link_shares,
    stage_shares,
    tier_shares,
)

NUM_BINS = 60
_LABEL_WIDTH = 13
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LINKS = (
    ("host > GPU", Tier.HOST, Tier.DEVICE),
    ("GPU > host", Tier.DEVICE, Tier.HOST),
    ("host > NVMe", Tier.HOST, Tier.NVME),
    ("NVMe > host", Tier.NVME, Tier.HOST),
)
_TIERS = (("KV on GPUs", Tier.DEVICE), ("KV on host", Tier.HOST), ("KV on NVMe", Tier.NVME))


def draw_timeline(timeline: Timeline, num_bins: int = NUM_BINS) -> Iterator[Text]:
    """Line by line: how busy each stage is, the links of the first one, how full each tier is. A
    full block is all of that part of the run."""
    yield Text(f"{timeline.seconds:,.1f} s from left to right; mean at the end of each line")
    for stage in range(timeline.num_stages):
        yield _line(f"stage {stage}", stage_shares(timeline, stage, num_bins), "green")
    for label, source, target in _LINKS:
        shares = link_shares(timeline, source, target, num_bins)
        if any(shares):
            yield _line(label, shares, "cyan")
    for label, tier in _TIERS:
        shares = tier_shares(timeline, tier, num_bins)
        if any(shares):
            yield _line(label, shares, "yellow")


def _line(label: str, shares: Sequence[float], style: str) -> Text:
    mean = sum(shares) / len(shares)
    blocks = "".join(map(block, shares))
    return Text.assemble(label.ljust(_LABEL_WIDTH), (blocks, style), f"{mean:6.0%}")


def block(share: float) -> str:
    """Something is never drawn as nothing, nor a part as all."""
    top = len(_BLOCKS) - 1
    if share <= 0.0:
        return _BLOCKS[0]
    if share >= 1.0:
        return _BLOCKS[top]
    return _BLOCKS[min(top - 1, max(1, round(share * top)))]
