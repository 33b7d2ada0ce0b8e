"""What CUDA's driver and ``nvidia-smi`` say of the same GPUs."""

from __future__ import annotations

from pipemax_worker.pipeline.gpus import gpu_memory_bytes, gpu_uuids
from pipemax_worker.preflight.nvidia_smi import find_lost_gpus, read_gpus
from pipemax_worker.runner.preflight import join_gpu_facts


def test_uuids_are_told_for_every_gpu() -> None:
    assert len(gpu_uuids()) == len(gpu_memory_bytes())
    assert all(uuid.startswith(("GPU-", "MIG-")) for uuid in gpu_uuids())


def test_nvidia_smi_knows_them_by_the_same_names() -> None:
    readings = read_gpus()
    facts = join_gpu_facts(gpu_uuids(), gpu_memory_bytes(), readings)
    assert facts
    for gpu in facts:
        assert gpu.fault is None
        assert gpu.uuid in readings
        assert gpu.used_bytes is not None
    assert find_lost_gpus(gpu_uuids()) == {}
    assert list(find_lost_gpus(["GPU-00000000-0000-0000-0000-000000000000"])) == [
        "GPU-00000000-0000-0000-0000-000000000000"
    ]
