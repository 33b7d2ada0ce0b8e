"""What a person reads while a run starts."""

from pathlib import Path

from kit.jobs import JobFolder
from kit.progress import GEOMETRY
from pipemax_worker.contract.messages import StageReady
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.job.load import load_job
from pipemax_worker.runner.sizing import derive_session_settings
from pipemax_worker.runner.start_messages import describe_stage, describe_start, describe_tiers


def lines_of(job: JobFolder, changes: dict[str, object]) -> list[str]:
    found = load_job(job.write(changes))
    config = load_model_config(job.model_folder)
    settings = derive_session_settings(found.spec, config, Path("tiny"), None, num_gpus=2)
    return list(describe_start(found, settings))


def test_model_device_and_shape(job: JobFolder) -> None:
    assert lines_of(job, {"parallelism.stagesPerNode": 4, "engine.microBatches": 6}) == [
        "reviews: tiny in float32 on the CPU, stages: 4, micro-batches: 6"
    ]
    assert lines_of(job, {"engine": {}}) == [
        "reviews: tiny in bfloat16 on 2 GPUs, stages: 2, micro-batches: 2"
    ]


def test_one_command_is_one_node(job: JobFolder) -> None:
    changes = {"parallelism.nodes": 4, "output.shared": True}
    assert (
        "spec.parallelism.nodes is 4: this is one of so many workers" in lines_of(job, changes)[1]
    )


def test_stages_and_tiers() -> None:
    assert describe_stage(StageReady(1, 2.34, 3 << 20, True)) == (
        "  stage 1: 3.0 MiB of weights in 2.3 s"
    )
    assert describe_tiers(GEOMETRY) == (
        "  KV blocks of 16 tokens: device 6 (96.0 KiB), host 12 (192.0 KiB), nvme 24 (384.0 KiB)"
    )
