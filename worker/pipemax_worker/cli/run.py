"""`pipemax run FILE`: run a job on this machine, no cluster needed."""

from __future__ import annotations

import argparse
import sys

from pipemax_worker.cli.arguments import add_job_file, add_mounts
from pipemax_worker.errors import StoppedError
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.run import run_job


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="run a job on this machine",
        description="Runs an InferenceJob here: on its GPUs, or on the CPU where there is none. "
        "A job that was stopped or killed goes on where it was; a finished one is left alone. "
        "Ctrl-C (or SIGTERM) stops it in order: what is finished is written. A second Ctrl-C "
        "leaves at once.",
    )
    add_job_file(parser)
    add_mounts(parser)
    parser.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help="serve /metrics, /progress, /healthz and /readyz there (0: a free port; default: not "
        "at all)",
    )
    parser.add_argument(
        "--address", default="127.0.0.1", help="address for --port (default: %(default)s)"
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="run again the requests that failed (and run those that are missing); every request "
        "has one record again in the end",
    )
    parser.add_argument("--quiet", action="store_true", help="print the summary alone")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    run_options = RunOptions(
        mounts=dict(options.mount),
        port=options.port,
        address=options.address,
        quiet=options.quiet,
        retry_failed=options.retry_failed,
    )
    try:
        summary = run_job(options.job_file, run_options, sys.stderr)
    except BrokenPipeError:
        raise StoppedError(
            "stopped: nobody reads the progress any more; what is finished is written, "
            "and the same command continues the job"
        ) from None
    print(summary)
    return 0


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 65535")
    return int(text)
