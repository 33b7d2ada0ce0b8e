"""`pipemax run`: everything that a job needs, started and stopped in order."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import StageReady
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.manifest import write_manifest
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.ranges import choose_range_bytes
from pipemax_worker.errors import JobFileError, StoppedError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.pipeline.gpus import count_gpus
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.feed import RequestFeed
from pipemax_worker.runner.job_run import JobRun
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.preparation import (
    PreparedJob,
    build_processor,
    fingerprint_of,
    prepare_job,
)
from pipemax_worker.runner.session import nvme_run_folder, open_session
from pipemax_worker.runner.signals import StopRequest, stop_on_signals
from pipemax_worker.runner.sizing import SessionSettings, derive_session_settings
from pipemax_worker.telemetry.display import Display, open_display, render_summary
from pipemax_worker.telemetry.http import TelemetryServer
from pipemax_worker.telemetry.metrics import Metrics
from pipemax_worker.telemetry.progress import format_bytes, progress_as_json


def run_job(job_file: Path, options: RunOptions, stream: TextIO) -> str:
    """Run a job and return its summary; ``stream`` gets the progress.

    A finished job is left alone; an unfinished one goes on. Raises a PipemaxError whose exit code
    and reason say how it ended, in every other case.
    """
    with stop_on_signals() as stop:
        prepared = prepare_job(job_file, options.mounts)
        _refuse_what_is_not_run(prepared.job)
        store = open_store(prepared.places.output)
        store.probe()
        ledger = open_ledger(prepared, store)
        if ledger.is_finished:
            write_manifest(store, ledger)
            return (
                f"{prepared.job.metadata.name}: every request already has a record; "
                f"nothing to do\n  results   {prepared.places.output}"
            )
        display = open_display(stream, options.quiet)
        try:
            return _run(prepared, store, ledger, options, stop, display)
        finally:
            display.close()


def open_ledger(prepared: PreparedJob, store: ObjectStore) -> Ledger:
    """The output's ledger. Raises LedgerMismatchError where it is another job's."""
    total_bytes = sum(file.size_bytes for file in prepared.inputs)
    return Ledger.open_or_create(
        store, prepared.inputs, fingerprint_of(prepared), choose_range_bytes(total_bytes)
    )


def _refuse_what_is_not_run(job: InferenceJob) -> None:
    """A field that would have no effect is refused, never passed over."""
    if job.spec.suspend:
        raise StoppedError("spec.suspend is true: set it to false to run the job")
    if job.spec.resume_from is not None:
        raise JobFileError(
            "spec.resumeFrom is not supported by this version; "
            "a job goes on with what lies at its own output"
        )
    nvme = job.spec.kv_cache.nvme
    if nvme is not None and nvme.writes_per_day is not None:
        raise JobFileError(
            "spec.kvCache.nvme.writesPerDay is not supported by this version; leave it out"
        )


def _run(
    prepared: PreparedJob,
    store: ObjectStore,
    ledger: Ledger,
    options: RunOptions,
    stop: StopRequest,
    display: Display,
) -> str:
    job, places = prepared.job, prepared.places
    processor = build_processor(prepared)
    collector = Collector(ledger)
    clock = MonotonicClock()
    feed = RequestFeed(
        store, ledger, processor, collector, clock, worker_name(), job.spec.engine.look_ahead
    )
    with nvme_run_folder(places.nvme_folder, job.spec.kv_cache.nvme is not None) as nvme_folder:
        settings = derive_session_settings(
            job.spec, prepared.model_config, places.model_folder, nvme_folder, count_gpus()
        )
        display.message(_describe_start(job, settings))
        with open_session(
            settings, on_ready=lambda ready: display.message(_describe_stage(ready))
        ) as session:
            metrics = Metrics(lambda: run.snapshot, session.geometry, version("pipemax"))
            run = JobRun(
                job.metadata.name,
                session.engine,
                feed,
                collector,
                ledger,
                display,
                clock,
                places.output,
                metrics.observe_step,
            )
            display.message(_describe_tiers(session.geometry))
            with _telemetry(options, metrics, run, display):
                snapshot = run.run(stop, job.spec.error_policy, job.spec.deadline)
    if ledger.is_finished:
        write_manifest(store, ledger)
    return render_summary(snapshot)


@contextlib.contextmanager
def _telemetry(
    options: RunOptions, metrics: Metrics, run: JobRun, display: Display
) -> Iterator[None]:
    if options.port is None:
        yield
        return
    try:
        server = TelemetryServer(
            options.address,
            options.port,
            metrics.exposition,
            lambda: progress_as_json(run.snapshot),
        )
    except OSError as error:
        raise JobFileError(
            f"--port {options.port}: cannot be served at {options.address}: {error.strerror}; "
            "use another port, or 0 for a free one"
        ) from error
    display.message(f"metrics: http://{options.address}:{server.port}/metrics, also /progress")
    try:
        yield
    finally:
        server.close()


def worker_name() -> str:
    """Unique for this life of this process: claims and records name it."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _describe_start(job: InferenceJob, settings: SessionSettings) -> str:
    pipeline = settings.pipeline
    return (
        f"{job.metadata.name}: {pipeline.model_folder.name} in {pipeline.dtype} on "
        f"{pipeline.num_stages} {pipeline.device} stages, "
        f"{settings.num_micro_batches} micro-batches"
    )


def _describe_stage(ready: StageReady) -> str:
    return (
        f"  stage {ready.stage}: {format_bytes(ready.weight_bytes)} of weights "
        f"in {ready.load_seconds:.1f} s"
    )


def _describe_tiers(geometry: KVGeometry) -> str:
    block_bytes = geometry.block_bytes()
    tiers = [
        f"{name} {slots} blocks ({format_bytes(slots * block_bytes)})"
        for name, slots in (
            ("device", geometry.num_device_slots),
            ("host", geometry.num_host_slots),
            ("nvme", geometry.num_nvme_slots),
        )
        if slots
    ]
    return f"  KV of {geometry.block_tokens} tokens a block: " + ", ".join(tiers)
