"""`pipemax status FILE`: how far a job came, from its output location alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from pipemax_worker.cli.arguments import add_job_file, add_mounts
from pipemax_worker.dataset.heartbeats import HeartbeatLimits
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.progress import LedgerProgress, read_progress
from pipemax_worker.dataset.worker_states import WorkerState
from pipemax_worker.job.load import load_job
from pipemax_worker.runner.places import resolve_output
from pipemax_worker.telemetry.progress import format_energy, format_seconds

MAX_WORKERS_SHOWN = 20


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "status",
        help="show how far a job is, whether it runs or not",
        description="Reads what lies in the job's output location: records of a job that runs, "
        "was stopped, was killed or has finished.",
    )
    add_job_file(parser)
    add_mounts(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=status)


def status(options: argparse.Namespace) -> int:
    job = load_job(options.job_file)
    place = resolve_output(job, options.job_file, dict(options.mount))
    limits = HeartbeatLimits.for_silence(job.spec.node_loss.take_over_after)
    progress = read_progress(open_store(place), limits)
    if options.json:
        print(json.dumps({"job": job.metadata.name, "output": place, **as_json(progress)}))
    else:
        print(describe_progress(job.metadata.name, place, progress))
    return 0


def as_json(progress: LedgerProgress) -> dict[str, Any]:
    """Fields are named as in ``/progress`` where they mean the same."""
    counts = progress.counts
    return {
        "createdAt": progress.created_at,
        "finished": progress.is_finished,
        "requests": {
            "done": counts.num_records,
            "failed": counts.failed,
            "estimatedTotal": progress.estimated_num_requests,
        },
        "ranges": {"total": progress.num_ranges, "done": progress.num_done_ranges},
        "inputBytes": {"total": progress.input_bytes, "done": progress.done_bytes},
        "tokens": {"prompt": counts.prompt_tokens, "generated": counts.completion_tokens},
        "jobEnergy": {
            "joules": progress.energy.joules,
            "gpuSeconds": progress.energy.gpu_seconds,
        },
        "failedReasons": progress.failed_codes,
        "retry": progress.retry,
        "resumedFrom": list(progress.resumed_from),
        "copied": progress.num_copied,
        "workers": [
            {
                "name": worker.name,
                "phase": worker.phase,
                "silentSeconds": worker.silent_seconds and round(worker.silent_seconds, 1),
                "ranges": worker.num_ranges,
            }
            for worker in progress.workers
        ],
    }


def describe_progress(job_name: str, place: str, progress: LedgerProgress) -> str:
    """A few lines for a person."""
    counts = progress.counts
    total = progress.estimated_num_requests
    of_total = "" if progress.is_finished or total is None else f" of about {total}"
    return "\n".join(
        [
            f"{job_name}: {_phase(progress)}, started {progress.created_at}",
            f"  requests  {counts.num_records}{of_total} have a record: "
            f"{counts.completed} succeeded, {counts.failed} failed",
            *_describe_failures(progress),
            *_describe_sources(progress),
            f"  ranges    {progress.num_done_ranges} of {progress.num_ranges} done",
            f"  tokens    {counts.prompt_tokens} prompt, {counts.completion_tokens} generated",
            *([f"  energy    {format_energy(progress.energy)}"] if progress.energy else []),
            *(_describe_worker(worker) for worker in progress.workers[:MAX_WORKERS_SHOWN]),
            *_describe_more_workers(progress),
            f"  results   {place}",
        ]
    )


def _phase(progress: LedgerProgress) -> str:
    if progress.is_finished:
        return "finished"
    if progress.retry:
        return f"not finished, retry {progress.retry} is under way"
    return "not finished"


def _describe_failures(progress: LedgerProgress) -> Iterator[str]:
    if progress.failed_codes:
        codes = ", ".join(f"{count} x {code}" for code, count in progress.failed_codes.items())
        yield f"  failures  {codes}"


def _describe_sources(progress: LedgerProgress) -> Iterator[str]:
    if progress.resumed_from:
        yield f"  copied    {progress.num_copied} of them from {', '.join(progress.resumed_from)}"


def _describe_worker(worker: WorkerState) -> str:
    seconds = worker.silent_seconds
    sign = "" if seconds is None else f", last sign of life {format_seconds(seconds)} ago"
    ranges = f"{worker.num_ranges} {'range' if worker.num_ranges == 1 else 'ranges'}"
    return f"  worker    {worker.name}: {worker.phase}{sign}, holds {ranges}"


def _describe_more_workers(progress: LedgerProgress) -> Iterator[str]:
    if (num_more := len(progress.workers) - MAX_WORKERS_SHOWN) > 0:
        yield f"            and {num_more} more"
