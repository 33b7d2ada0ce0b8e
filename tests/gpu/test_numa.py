"""A GPU is found where the kernel has it."""

from __future__ import annotations

from pathlib import Path

import torch
from pipemax_worker.stage.numa import pci_address


def test_a_gpus_address_is_one_of_the_bus() -> None:
    assert (Path("/sys/bus/pci/devices") / pci_address(torch.device("cuda", 0))).exists()
