"""`pipemax status FILE`: how far a job came, from its output location alone."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pipemax_worker.cli.arguments import add_job_file, add_mounts
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.progress import LedgerProgress, read_progress
from pipemax_worker.job.load import load_job
from pipemax_worker.runner.places import resolve_output


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
    progress = read_progress(open_store(place))
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
    }


def describe_progress(job_name: str, place: str, progress: LedgerProgress) -> str:
    """A few lines for a person."""
    counts = progress.counts
    phase = "finished" if progress.is_finished else "not finished"
    total = progress.estimated_num_requests
    of_total = "" if progress.is_finished or total is None else f" of about {total}"
    return "\n".join(
        [
            f"{job_name}: {phase}, started {progress.created_at}",
            f"  requests  {counts.num_records}{of_total} have a record: "
            f"{counts.completed} succeeded, {counts.failed} failed",
            f"  ranges    {progress.num_done_ranges} of {progress.num_ranges} done",
            f"  tokens    {counts.prompt_tokens} prompt, {counts.completion_tokens} generated",
            f"  results   {place}",
        ]
    )
