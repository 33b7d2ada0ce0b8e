"""`pipemax run`: everything that a job needs, started and stopped in order."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import TextIO

from pipemax_worker import __version__
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.claims import ClaimLimits, RangeClaims
from pipemax_worker.dataset.heartbeats import HeartbeatLimits
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.manifest import Manifest, write_manifest
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.workers import name_this_worker
from pipemax_worker.errors import StoppedError
from pipemax_worker.pipeline.gpus import count_gpus
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.death_diagnosis import make_diagnosis
from pipemax_worker.runner.done_ranges_totals import DoneRangesTotals
from pipemax_worker.runner.failures import check_failures
from pipemax_worker.runner.feed import RequestFeed
from pipemax_worker.runner.job_energy import JobEnergy, find_stage_gpus
from pipemax_worker.runner.job_ledger import (
    begin_retry,
    closing_failed_job,
    find_earlier_results,
    find_ledger,
    open_earlier_results,
    open_ledger,
)
from pipemax_worker.runner.job_run import JobRun
from pipemax_worker.runner.model_provision import fetch_with_display
from pipemax_worker.runner.node_sharing import check_sharing, leave_mark
from pipemax_worker.runner.nvme_folder import derive_job_key, nvme_run_folder, remove_parked
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.parked_requests import ParkedRequests, identify_job
from pipemax_worker.runner.parking import JobParking
from pipemax_worker.runner.preflight import check_expected_gpus, run_preflight
from pipemax_worker.runner.preparation import PreparedJob, build_processor, prepare_job
from pipemax_worker.runner.recovering_engine import RecoveringEngine
from pipemax_worker.runner.restart import RestartablePipeline
from pipemax_worker.runner.serving import Served, serve_telemetry
from pipemax_worker.runner.session import Session, open_session
from pipemax_worker.runner.signals import StopRequest, stop_on_signals
from pipemax_worker.runner.sizing import SessionSettings, derive_session_settings
from pipemax_worker.runner.start_messages import describe_stage, describe_start, describe_tiers
from pipemax_worker.runner.termination import write_completion
from pipemax_worker.runner.write_budget import open_write_budget
from pipemax_worker.telemetry.display import Display, open_display, render_summary
from pipemax_worker.telemetry.energy_meter import EnergyMeter
from pipemax_worker.telemetry.metrics import Metrics


def run_job(job_file: Path, options: RunOptions, stream: TextIO) -> str:
    """Run a job and return its summary; ``stream`` gets the progress.

    A finished job is left alone; an unfinished one goes on. Raises a PipemaxError whose exit code
    and reason say how it ended, in every other case.
    """
    with stop_on_signals() as stop:
        with contextlib.closing(open_display(stream, options.quiet)) as display:
            fetch_model = fetch_with_display(display, stop)
            prepared = prepare_job(job_file, options.mounts, fetch_model)
        if prepared.job.spec.suspend:
            raise StoppedError(f"{job_file}: spec.suspend is true; set it to false to run the job")
        processor = build_processor(prepared)
        store = open_store(prepared.places.output)
        store.probe()
        ledger = find_ledger(prepared, store)
        if ledger is not None and ledger.is_finished:
            manifest = write_manifest(store, ledger)
            if not (options.retry_failed and manifest.counts.failed):
                return _finish_again(prepared, manifest)
        find_earlier_results(prepared)  # refuses another job's before anything is started
        display = open_display(stream, options.quiet)
        try:
            return _run(prepared, processor, store, ledger, options, stop, display)
        finally:
            display.close()


def _finish_again(prepared: PreparedJob, manifest: Manifest) -> str:
    """Nothing is left to run; a policy that was exceeded still is."""
    _remove_parked(prepared)
    _judge(prepared, manifest)
    failed = manifest.counts.failed
    hint = f"; {failed} failed: --retry-failed runs them again" if failed else ""
    return (
        f"{prepared.job.metadata.name}: every request already has a record; nothing to do{hint}\n"
        f"  results   {prepared.places.output}"
    )


def _judge(prepared: PreparedJob, manifest: Manifest) -> None:
    """By all records, whichever worker's."""
    policy, reasons = prepared.job.spec.error_policy, Counter(manifest.failed_codes)
    check_failures(policy, manifest.counts, reasons, is_final=True)
    write_completion(manifest.counts, manifest.energy)


def _run(
    prepared: PreparedJob,
    processor: PromptProcessor,
    store: ObjectStore,
    found_ledger: Ledger | None,
    options: RunOptions,
    stop: StopRequest,
    display: Display,
) -> str:
    served = Served(prepared.job.metadata.name)
    with contextlib.ExitStack() as stack:
        stack.callback(processor.close)
        with stop.interrupting():
            stack.enter_context(serve_telemetry(options, served, display.message))
            served.ledger_mark = leave_mark(prepared, store)
            check_sharing(prepared, store, display.message)
            pipeline, parked = _start_pipeline(prepared, found_ledger, stack, stop, display, served)
        ledger = open_ledger(prepared, store)
        if options.retry_failed:
            begin_retry(store, ledger)
        if ledger.retry:
            display.message(f"retry {ledger.retry}: what failed or is missing is run again")
        run = _build_run(prepared, processor, store, ledger, pipeline, parked, served, display)
        energy = stack.enter_context(JobEnergy(served.meter, store, name_this_worker()))
        served.add_energy = energy.add_to
        spec = prepared.job.spec
        with closing_failed_job(store, ledger):
            snapshot = energy.add_to(run.run(stop, spec.error_policy, spec.deadline))
    _remove_parked(prepared)
    _judge(prepared, write_manifest(store, ledger))
    return render_summary(snapshot)


def _remove_parked(prepared: PreparedJob) -> None:
    remove_parked(prepared.places.nvme_folder, derive_job_key(prepared.places.output))


def _start_pipeline(
    prepared: PreparedJob,
    ledger: Ledger | None,
    stack: contextlib.ExitStack,
    stop: StopRequest,
    display: Display,
    served: Served,
) -> tuple[RestartablePipeline, ParkedRequests]:
    """Start the pipeline; ``stack`` ends it. Raises what ``open_session`` raises, and JobFileError,
    KVTierError, PreflightError, GpuLostError."""
    job, places = prepared.job, prepared.places
    nvme, job_key = job.spec.kv_cache.nvme, derive_job_key(places.output)
    folder = stack.enter_context(nvme_run_folder(places.nvme_folder, nvme is not None, job_key))
    writes_per_day = None if nvme is None else nvme.writes_per_day
    write_budget = stack.enter_context(open_write_budget(folder, writes_per_day))
    nvme_path = None if folder is None else folder.path
    check_expected_gpus(job.spec.engine.device)
    settings = derive_session_settings(
        job.spec, prepared.model_config, places.model_folder, nvme_path, count_gpus()
    )
    meter = EnergyMeter(find_stage_gpus(settings.pipeline), MonotonicClock(), display.message)
    served.meter = stack.enter_context(meter)
    for line in describe_start(job, settings):
        display.message(line)
    served.preflight = run_preflight(job, settings.pipeline, nvme_path, display.message)

    identity = identify_job(prepared, settings, ledger)
    parked = stack.enter_context(ParkedRequests(folder, identity, display.message))
    parked.load()

    def open_adopting(settings: SessionSettings) -> contextlib.AbstractContextManager[Session]:
        return open_session(
            settings,
            on_ready=lambda ready: display.message(describe_stage(ready)),
            on_wait=lambda: pipeline.on_wait(),
            write_budget=write_budget,
        )

    def open_pipeline() -> contextlib.AbstractContextManager[Session]:
        return parked.adopting(settings, open_adopting)

    pipeline = RestartablePipeline(open_pipeline, display.message, stop.interrupting)
    pipeline.explain = make_diagnosis(settings.pipeline).explain
    stack.enter_context(pipeline)
    display.message(describe_tiers(pipeline.session.geometry))
    return pipeline, parked


def _build_run(
    prepared: PreparedJob,
    processor: PromptProcessor,
    store: ObjectStore,
    ledger: Ledger,
    pipeline: RestartablePipeline,
    parked: ParkedRequests,
    served: Served,
    display: Display,
) -> JobRun:
    job, clock = prepared.job, MonotonicClock()
    collector, session = Collector(ledger), pipeline.session
    look_ahead = job.spec.engine.look_ahead
    heartbeat = HeartbeatLimits.for_silence(job.spec.node_loss.take_over_after)
    limits, worker = ClaimLimits(heartbeat=heartbeat), name_this_worker()
    claims = RangeClaims(ledger, worker, clock, limits, ended=[parked.parked_by])
    pipeline.on_wait = claims.keep_alive
    feed = RequestFeed(
        store,
        claims,
        processor,
        collector,
        clock,
        look_ahead,
        parked,
        retry=ledger.retry,
        earlier=open_earlier_results(prepared, store),
    )
    load_seconds = [stage.load_seconds for stage in session.stages]
    gpus = served.meter.readings
    metrics = Metrics(lambda: run.snapshot, session.geometry, __version__, load_seconds, gpus)
    engine = RecoveringEngine(
        pipeline,
        collector.stop_checker,
        display.message,
        lambda error, death: pipeline.explain(error, death.stage),
    )
    grace_seconds = job.spec.derive_grace_seconds()
    parking = JobParking(
        parked, ledger, pipeline, engine, collector, clock, grace_seconds, display.message, worker
    )
    run = JobRun(
        job.metadata.name,
        engine,
        feed,
        collector,
        ledger,
        display,
        clock,
        prepared.places.output,
        metrics.observe_step,
        at_stop=parking.park,
    )
    served.snapshot = lambda: run.snapshot
    served.closed_ranges = DoneRangesTotals(ledger, clock).read
    served.metrics = metrics.exposition
    return run
