"""Holds this machine against a job before its model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.contract.weights import host_embedding_bytes, weight_bytes
from pipemax_worker.errors import GpuLostError, KVTierError, PreflightError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.pipeline.gpus import count_gpus, gpu_memory_bytes, gpu_uuids
from pipemax_worker.pipeline.partition import partition_layers
from pipemax_worker.pipeline.settings import (
    CPU_DEVICE_KV_BYTES,
    PipelineSettings,
    build_geometry,
)
from pipemax_worker.preflight.checks import derive_findings
from pipemax_worker.preflight.disk import PROBE_BYTES, measure_nvme
from pipemax_worker.preflight.facts import GpuFacts, MachineFacts, Needs
from pipemax_worker.preflight.findings import Finding, Severity, select
from pipemax_worker.preflight.gpu_checks import GPU_LOST_CHECK
from pipemax_worker.preflight.io_uring import find_io_uring_fault
from pipemax_worker.preflight.memory import measure_memory
from pipemax_worker.preflight.nvidia_smi import GpuReading, read_gpus

Findings = tuple[Finding, ...]

EXPECTED_GPUS_VARIABLE = "PIPEMAX_EXPECTED_GPUS"
"""GPUs that the cluster has given to this pod. A job that leaves the device open must not compute
on the CPU there because the driver is broken."""


def check_expected_gpus(
    device: str, environment: Mapping[str, str] = os.environ, num_gpus: int | None = None
) -> None:
    """Before anything is sized. Raises PreflightError where GPUs are promised and not there."""
    expected = int(environment.get(EXPECTED_GPUS_VARIABLE) or 0)
    found = count_gpus() if num_gpus is None else num_gpus
    if device != "cpu" and found < expected:
        raise PreflightError(
            f"gpus: the cluster gave {expected} GPUs to this worker, and {found} are visible; see "
            "whether the driver works on this node (nvidia-smi, the device plugin's log)"
        )


def derive_needs(job: InferenceJob, settings: PipelineSettings) -> Needs:
    """What this job takes of a machine. Raises UnsupportedModelError."""
    is_cpu = settings.device == "cpu"
    stage_kv_bytes = settings.device_kv_bytes
    device_kv_bytes = (
        CPU_DEVICE_KV_BYTES if stage_kv_bytes is None else stage_kv_bytes * settings.num_stages
    )
    return Needs(
        device=settings.device,
        num_stages=settings.num_stages,
        host_kv_bytes=settings.host_kv_bytes,
        host_device_kv_bytes=device_kv_bytes if is_cpu else 0,
        host_weight_bytes=_host_weight_bytes(settings),
        nvme_kv_bytes=settings.nvme_kv_bytes,
        grace_period_seconds=job.spec.derive_grace_seconds(),
    )


def _host_weight_bytes(settings: PipelineSettings) -> int:
    """All that no GPU holds, of all stages together."""
    config, dtype = settings.model_config, settings.dtype
    if settings.device != "cpu":
        is_only_stage = settings.num_stages == 1
        return host_embedding_bytes(config, dtype, settings.device, is_only_stage=is_only_stage)
    cut = ModelCut(partition_layers(config, settings.num_stages))
    return sum(weight_bytes(config, cut, stage, dtype) for stage in range(cut.num_stages))


def measure_machine(needs: Needs, nvme_folder: Path | None) -> MachineFacts:
    """A second at most, most of it the trial of the disk."""
    is_cuda = needs.device == "cuda"
    nvme = None
    if nvme_folder is not None and needs.nvme_kv_bytes:
        nvme = measure_nvme(nvme_folder, min(PROBE_BYTES, needs.nvme_kv_bytes))
    return MachineFacts(
        memory=measure_memory(),
        io_uring_fault=find_io_uring_fault(),
        nvme=nvme,
        gpus=join_gpu_facts(gpu_uuids(), gpu_memory_bytes(), read_gpus()) if is_cuda else (),
    )


def join_gpu_facts(
    uuids: Sequence[str], total_bytes: Sequence[int], readings: Mapping[str, GpuReading]
) -> tuple[GpuFacts, ...]:
    """CUDA says which GPUs there are, in the order of its numbers; ``nvidia-smi`` what it knows of
    them."""
    facts = []
    for uuid, num_bytes in zip(uuids, total_bytes, strict=True):
        reading = readings.get(uuid)
        is_ill = reading is not None and reading.total_bytes is None
        facts.append(
            GpuFacts(
                uuid=uuid,
                total_bytes=num_bytes,
                used_bytes=None if reading is None else reading.used_bytes,
                fault="nvidia-smi cannot read it" if is_ill else None,
            )
        )
    return tuple(facts)


def check_gpu_room(settings: PipelineSettings, total_bytes: Sequence[int]) -> tuple[Finding, ...]:
    """Whether weights, buffers and at least one block fit onto each stage's GPU."""
    if settings.device != "cuda" or len(total_bytes) < settings.num_stages:
        return ()
    try:
        build_geometry(settings, total_bytes)
    except KVTierError as error:
        message, _, remedy = str(error).rpartition("; ")
        return (Finding("gpu-memory", Severity.FATAL, message, remedy),)
    return ()


def find_all(needs: Needs, settings: PipelineSettings, nvme_folder: Path | None) -> Findings:
    """Measure this machine and hold it against the needs."""
    facts = measure_machine(needs, nvme_folder)
    totals = [gpu.total_bytes for gpu in facts.gpus]
    return (*derive_findings(needs, facts), *check_gpu_room(settings, totals))


def run_preflight(
    job: InferenceJob,
    settings: PipelineSettings,
    nvme_folder: Path | None,
    say: Callable[[str], None],
) -> Findings:
    """All findings; ``say`` gets the warnings. Raises what :func:`judge` returns."""
    findings = find_all(derive_needs(job, settings), settings, nvme_folder)
    for finding in select(findings, Severity.WARNING):
        say(f"preflight: {finding.describe()}")
    if (error := judge(findings)) is not None:
        raise error
    return findings


def judge(findings: Sequence[Finding]) -> PreflightError | GpuLostError | None:
    """What ends the run: an error with every fatal finding, or None if there is no such."""
    fatal = select(findings, Severity.FATAL)
    message = "\n".join(finding.describe() for finding in fatal)
    if any(finding.check == GPU_LOST_CHECK for finding in fatal):
        return GpuLostError(message)
    return PreflightError(message) if fatal else None
