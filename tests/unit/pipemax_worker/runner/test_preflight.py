"""A job's needs, and how a run ends on a machine that does not have them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, text_lines
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.errors import GpuLostError, PreflightError
from pipemax_worker.job.load import load_job
from pipemax_worker.preflight.facts import GpuFacts, MachineFacts, MemoryFacts, Needs
from pipemax_worker.preflight.findings import Finding, Severity
from pipemax_worker.preflight.nvidia_smi import GpuReading
from pipemax_worker.runner import preflight
from pipemax_worker.runner import run as run_module
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.preflight import (
    check_expected_gpus,
    check_gpu_room,
    derive_needs,
    join_gpu_facts,
    judge,
    run_preflight,
)
from pipemax_worker.runner.run import run_job
from pipemax_worker.runner.serving import Served
from pipemax_worker.runner.sizing import derive_session_settings

MIB = 1 << 20
OK = Finding("memory", Severity.OK, "enough")
SLOW = Finding("nvme-speed", Severity.WARNING, "slow", "use a faster one")
FULL = Finding("nvme", Severity.FATAL, "full", "free the disk")
LOST = Finding("gpu-lost", Severity.FATAL, "GPU-7 is lost", "reset it")


def needs_of(job: JobFolder, changes: dict[str, Any], num_gpus: int = 0) -> Needs:
    loaded = load_job(job.write(changes))
    config = load_model_config(job.model_folder)
    settings = derive_session_settings(loaded.spec, config, job.model_folder, job.folder, num_gpus)
    return derive_needs(loaded, settings.pipeline)


def test_a_cpu_takes_device_tier_and_weights_of_the_host(job: JobFolder) -> None:
    changes = {
        "engine": {"device": "cpu", "deviceKvCache": "2Mi"},
        "parallelism.stagesPerNode": 3,
        "kvCache": {"host": "64Mi", "nvme": {"hostPath": "/nvme", "size": "1Gi"}},
        "gracePeriodSeconds": 90,
    }
    needs = needs_of(job, changes)
    assert (needs.device, needs.num_stages) == ("cpu", 3)
    assert (needs.host_kv_bytes, needs.host_device_kv_bytes) == (64 * MIB, 3 * 2 * MIB)
    assert needs.nvme_kv_bytes == 1024 * MIB
    assert needs.grace_period_seconds == 90
    assert needs.host_weight_bytes > 0


def test_gpus_keep_theirs_but_for_the_embedding(job: JobFolder) -> None:
    """Which two stages look up on the host; one that is tied to its LM head stays on the GPU."""
    needs = needs_of(job, {"engine": {}}, num_gpus=2)
    assert (needs.device, needs.num_stages) == ("cuda", 2)
    table_bytes = 2 * load_model_config(job.model_folder).embedding_parameters
    assert (needs.host_device_kv_bytes, needs.host_weight_bytes) == (0, table_bytes)
    alone = needs_of(job, {"engine": {}}, num_gpus=1)
    is_tied = load_model_config(job.model_folder).tie_word_embeddings
    assert alone.host_weight_bytes == (0 if is_tied else table_bytes)


def test_a_model_that_does_not_fit_onto_the_gpus(job: JobFolder) -> None:
    loaded = load_job(job.write({"engine": {}}))
    config = load_model_config(job.model_folder)
    made = derive_session_settings(loaded.spec, config, job.model_folder, None, 2)
    (finding,) = check_gpu_room(made.pipeline, [1 << 30, 1 << 30])
    assert (finding.check, finding.severity) == ("gpu-memory", Severity.FATAL)
    assert "leave no room for KV in 0.9 GiB of its GPU" in finding.message
    assert "use more stages" in finding.remedy
    assert check_gpu_room(made.pipeline, [24 << 30, 24 << 30]) == ()
    assert check_gpu_room(made.pipeline, [24 << 30]) == (), "another finding says that one is gone"


def test_a_cpu_needs_no_word_about_gpus(job: JobFolder) -> None:
    needs = needs_of(job, {"engine": {"device": "cpu"}})
    facts = preflight.measure_machine(needs, job.folder)
    assert (facts.gpus, facts.nvme) == ((), None)
    with_nvme = preflight.measure_machine(
        msgspec.structs.replace(needs, nvme_kv_bytes=MIB), job.folder
    )
    assert with_nvme.nvme is not None
    assert with_nvme.nvme.fault is None


def test_cuda_names_the_gpus_and_nvidia_smi_knows_them() -> None:
    readings = {
        "GPU-a": GpuReading("GPU-a", 24, 3),
        "GPU-b": GpuReading("GPU-b", None, None),
        "GPU-z": GpuReading("GPU-z", 24, 3),
    }
    found = join_gpu_facts(["GPU-b", "GPU-a", ""], [25, 26, 27], readings)
    assert found == (
        GpuFacts("GPU-b", 25, None, "nvidia-smi cannot read it"),
        GpuFacts("GPU-a", 26, 3),
        GpuFacts("", 27),
    )


@pytest.mark.parametrize(
    ("findings", "kind"),
    [((OK, SLOW), None), ((FULL,), PreflightError), ((FULL, LOST), GpuLostError)],
)
def test_what_ends_a_run(findings: tuple[Finding, ...], kind: type[Exception] | None) -> None:
    error = judge(findings)
    assert (None if error is None else type(error)) is kind
    for one in findings:
        if error is not None and one.severity is Severity.FATAL:
            assert one.describe() in str(error)


@pytest.mark.parametrize(
    ("device", "expected", "found", "is_refused"),
    [
        ("auto", "8", 7, True),
        ("cuda", "8", 0, True),
        ("auto", "8", 8, False),
        ("cpu", "8", 0, False),
        ("auto", "", 0, False),
    ],
)
def test_gpus_that_were_promised(device: str, expected: str, found: int, is_refused: bool) -> None:
    """Above all, ``auto`` must not compute on the CPU of a node whose driver is broken."""
    environment = {"PIPEMAX_EXPECTED_GPUS": expected}
    if not is_refused:
        check_expected_gpus(device, environment, found)
        return
    with pytest.raises(PreflightError, match=f"8 GPUs to this worker, and {found} are visible"):
        check_expected_gpus(device, environment, found)


def use_facts(monkeypatch: pytest.MonkeyPatch, facts: MachineFacts) -> None:
    monkeypatch.setattr(preflight, "measure_machine", lambda *_: facts)


def test_warnings_are_said_and_all_is_returned(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_facts(monkeypatch, MachineFacts(memory=MemoryFacts(available=MIB)))
    loaded = load_job(job.write())
    config = load_model_config(job.model_folder)
    settings = derive_session_settings(loaded.spec, config, job.model_folder, None, 0)
    said: list[str] = []
    found = run_preflight(loaded, settings.pipeline, None, said.append)
    assert [one.check for one in found] == ["available-memory", "io_uring"]
    (warning,) = said
    assert warning.startswith("preflight: available-memory: ")
    assert "lower kvCache.host" in warning


def test_a_run_ends_before_its_pipeline_starts(
    job: JobFolder, sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_facts(monkeypatch, MachineFacts(memory=MemoryFacts(limit=MIB)))
    job.write_input(text_lines(3))
    with pytest.raises(PreflightError, match=r"the container's limit is 1\.0 MiB") as caught:
        run_job(job.write(), RunOptions(), StringIO())
    assert caught.value.exit_code == 71
    assert not sessions.settings, "nothing was started"
    assert not (job.output / "ledger").exists()


def test_a_run_without_its_promised_gpus_ends_too(
    job: JobFolder, sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEMAX_EXPECTED_GPUS", "900")
    job.write_input(text_lines(3))
    with pytest.raises(PreflightError, match="900 GPUs"):
        run_job(job.write({"engine.device": "auto"}), RunOptions(), StringIO())
    assert not sessions.settings


def test_progress_carries_the_findings(
    job: JobFolder, sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []
    monkeypatch.setattr(run_module, "Served", lambda name: served.append(Served(name)) or served[0])
    job.write_input(text_lines(3))
    folder: Path = job.folder / "nvme"
    nvme = {"hostPath": str(folder), "size": "1Mi"}
    run_job(job.write({"kvCache.nvme": nvme}), RunOptions(), StringIO())
    assert {"memory", "nvme", "io_uring"} <= {one.check for one in served[0].preflight}
