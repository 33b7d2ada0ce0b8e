"""The devices that this machine has; tests of device code run on each of them."""

from __future__ import annotations

import torch

DEVICES = [
    torch.device("cpu"),
    *(torch.device(f"cuda:{index}") for index in range(min(1, torch.cuda.device_count()))),
]
