"""A stage keeps to its own GPU, whatever its threads do."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pipemax_worker.pipeline.gpus import count_gpus

STAGE_GPU = 1


def has_context(gpu: int) -> bool:
    """Whether this process has one there. The driver's own word."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, flags, is_active = ctypes.c_int(0), ctypes.c_uint(0), ctypes.c_int(0)
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), gpu) == 0
    state = (ctypes.byref(flags), ctypes.byref(is_active))
    assert cuda.cuDevicePrimaryCtxGetState(device, *state) == 0
    return bool(is_active.value)


def move_kv_on_the_second_gpu(folder: Path) -> None:
    """As stage 1 does: pin the host tier, copy out and back."""
    import torch
    from kit.kv_tiers import copy_job, make_tiers
    from pipemax_worker.contract.geometry import Tier
    from pipemax_worker.stage.kv.mover import KVMover

    torch.cuda.set_device(STAGE_GPU)
    device, host, nvme = make_tiers(folder, device_name=f"cuda:{STAGE_GPU}")
    mover = KVMover(device, host, nvme)
    mover.submit([copy_job(1, Tier.DEVICE, Tier.HOST, [0, 1, 4], [7, 2, 3])])
    mover.submit([copy_job(2, Tier.HOST, Tier.DEVICE, [7, 2], [5, 3])])
    mover.wait([1, 2])
    mover.close()
    host.close()
    nvme.close()


if __name__ == "__main__":
    move_kv_on_the_second_gpu(Path(sys.argv[1]))
    print("own", has_context(STAGE_GPU), "first", has_context(0))
elif count_gpus() > STAGE_GPU:

    @pytest.mark.timeout(120)
    def test_the_first_gpu_has_no_context_of_the_second_stage(tmp_path: Path) -> None:
        """It would take half a GiB there for every stage."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, __file__, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.stdout.strip() == "own True first False", done.stderr
