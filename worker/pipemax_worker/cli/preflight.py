"""`pipemax preflight FILE`: can this machine run the job?"""

from __future__ import annotations

import argparse

from pipemax_worker.cli.arguments import add_job_file, add_mounts
from pipemax_worker.runner.preflight_report import preflight_job


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "preflight",
        help="check this machine's GPUs, memory and disk against a job without running it",
        description="Measures what the job needs of the machine it is run on: GPUs, host memory "
        "and its limits, /dev/shm, the NVMe tier's space and speed, io_uring. `run` does the same "
        "before it loads the model; the exit code is 71 (72 for a lost GPU) if the job cannot run "
        "here.",
    )
    add_job_file(parser)
    add_mounts(parser)
    parser.set_defaults(command=preflight)


def preflight(options: argparse.Namespace) -> int:
    report = preflight_job(options.job_file, dict(options.mount))
    for line in report.lines:
        print(line)
    return report.exit_code
