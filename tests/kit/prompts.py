"""Random token ids of the small models, the same each time."""

from __future__ import annotations

import torch
from kit.models import VOCAB_SIZE


def tokens(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB_SIZE, (count,), generator=generator).tolist()
