"""`pipemax run`: everything that a job needs, started and stopped in order."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections import Counter
from pathlib import Path
from typing import TextIO

from pipemax_worker import __version__
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.claims import RangeClaims
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.manifest import write_manifest
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.places import open_store
from pipemax_worker.errors import StoppedError
from pipemax_worker.pipeline.gpus import count_gpus
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.failures import check_failures
from pipemax_worker.runner.feed import RequestFeed
from pipemax_worker.runner.job_ledger import find_ledger, open_ledger
from pipemax_worker.runner.job_run import JobRun
from pipemax_worker.runner.nvme_folder import nvme_run_folder
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.preparation import PreparedJob, build_processor, prepare_job
from pipemax_worker.runner.recovering_engine import RecoveringEngine
from pipemax_worker.runner.restart import RestartablePipeline
from pipemax_worker.runner.serving import Served, serve_telemetry
from pipemax_worker.runner.session import Session, open_session
from pipemax_worker.runner.signals import StopRequest, stop_on_signals
from pipemax_worker.runner.sizing import derive_session_settings
from pipemax_worker.runner.start_messages import describe_stage, describe_start, describe_tiers
from pipemax_worker.telemetry.display import Display, open_display, render_summary
from pipemax_worker.telemetry.metrics import Metrics


def run_job(job_file: Path, options: RunOptions, stream: TextIO) -> str:
    """Run a job and return its summary; ``stream`` gets the progress.

    A finished job is left alone; an unfinished one goes on. Raises a PipemaxError whose exit code
    and reason say how it ended, in every other case.
    """
    with stop_on_signals() as stop:
        prepared = prepare_job(job_file, options.mounts)
        if prepared.job.spec.suspend:
            raise StoppedError(f"{job_file}: spec.suspend is true; set it to false to run the job")
        processor = build_processor(prepared)
        store = open_store(prepared.places.output)
        store.probe()
        ledger = find_ledger(prepared, store)
        if ledger is not None and ledger.is_finished:
            return _finish_again(prepared, store, ledger)
        display = open_display(stream, options.quiet)
        try:
            return _run(prepared, processor, store, options, stop, display)
        finally:
            display.close()


def _finish_again(prepared: PreparedJob, store: ObjectStore, ledger: Ledger) -> str:
    """Nothing is left to run; a policy that was exceeded still is."""
    manifest = write_manifest(store, ledger)
    check_failures(prepared.job.spec.error_policy, manifest.counts, Counter(), is_final=True)
    return (
        f"{prepared.job.metadata.name}: every request already has a record; nothing to do\n"
        f"  results   {prepared.places.output}"
    )


def _run(
    prepared: PreparedJob,
    processor: PromptProcessor,
    store: ObjectStore,
    options: RunOptions,
    stop: StopRequest,
    display: Display,
) -> str:
    served = Served(prepared.job.metadata.name)
    with contextlib.ExitStack() as stack:
        stack.callback(processor.close)
        with stop.interrupting():
            stack.enter_context(serve_telemetry(options, served, display.message))
            pipeline = _start_pipeline(prepared, stack, stop, display)
        ledger = open_ledger(prepared, store)
        run = _build_run(prepared, processor, store, ledger, pipeline, served, display)
        spec = prepared.job.spec
        snapshot = run.run(stop, spec.error_policy, spec.deadline)
    if not ledger.is_finished:
        num_left = len(ledger.ranges) - len(ledger.done_ranges())
        raise StoppedError(
            f"{num_left} of {len(ledger.ranges)} ranges of the input were taken over by another "
            "run of this job, which has not finished them; run the same command again after it"
        )
    write_manifest(store, ledger)
    return render_summary(snapshot)


def _start_pipeline(
    prepared: PreparedJob, stack: contextlib.ExitStack, stop: StopRequest, display: Display
) -> RestartablePipeline:
    """Start the pipeline; ``stack`` ends it. Raises what ``open_session`` raises, and JobFileError,
    KVTierError."""
    job, places = prepared.job, prepared.places
    has_nvme = job.spec.kv_cache.nvme is not None
    nvme_folder = stack.enter_context(nvme_run_folder(places.nvme_folder, has_nvme))
    settings = derive_session_settings(
        job.spec, prepared.model_config, places.model_folder, nvme_folder, count_gpus()
    )
    for line in describe_start(job, settings):
        display.message(line)

    def open_pipeline() -> contextlib.AbstractContextManager[Session]:
        return open_session(settings, lambda ready: display.message(describe_stage(ready)))

    pipeline = RestartablePipeline(open_pipeline, display.message, stop.interrupting)
    stack.enter_context(pipeline)
    display.message(describe_tiers(pipeline.session.geometry))
    return pipeline


def _build_run(
    prepared: PreparedJob,
    processor: PromptProcessor,
    store: ObjectStore,
    ledger: Ledger,
    pipeline: RestartablePipeline,
    served: Served,
    display: Display,
) -> JobRun:
    job, clock = prepared.job, MonotonicClock()
    collector, session = Collector(ledger), pipeline.session
    look_ahead = job.spec.engine.look_ahead
    claims = RangeClaims(ledger, worker_name())
    feed = RequestFeed(store, claims, processor, collector, clock, look_ahead)
    load_seconds = [stage.load_seconds for stage in session.stages]
    metrics = Metrics(lambda: run.snapshot, session.geometry, __version__, load_seconds)
    run = JobRun(
        job.metadata.name,
        RecoveringEngine(pipeline, collector.stop_checker, display.message),
        feed,
        collector,
        ledger,
        display,
        clock,
        prepared.places.output,
        metrics.observe_step,
    )
    served.snapshot = lambda: run.snapshot
    served.metrics = metrics.exposition
    return run


def worker_name() -> str:
    """Unique for this life of this process: claims and records name it."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
