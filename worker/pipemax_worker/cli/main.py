"""`pipemax`: parse the command line, run one command, turn its error into an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from pipemax_worker import __version__
from pipemax_worker.cli import (
    bench,
    host_folders,
    plan,
    preflight,
    results,
    run,
    status,
    top,
    validate,
)
from pipemax_worker.errors import InvariantError, PipemaxError
from pipemax_worker.runner.termination import write_termination_message

DESCRIPTION = """\
Batch inference for large language models on the hardware you own: a pipeline over the machine's
GPUs (or CPU cores), with the KV cache in GPU memory, host memory and NVMe.

A first run, with the model that ships with the project:

    pipemax run manifests/examples/quickstart/job.yaml
    pipemax results manifests/examples/quickstart/job.yaml | head

A job of your own needs three lines of `spec` (docs/inferencejob.md has all fields):

    apiVersion: pipemax.dev/v1alpha1
    kind: InferenceJob
    metadata: {name: reviews}
    spec:
      model: {uri: /models/llama-3.1-8b-instruct}
      input: {uri: prompts.jsonl}         # OpenAI Batch format, one request a line
      output: {uri: out/}
"""

EPILOG = """\
exit codes: 0 every request has a record · 65 bad input or too many failures · 66 input or model
missing · 69 a stage died · 70 a bug · 71 this machine cannot run the job · 72 a GPU has failed ·
74 output, NVMe or a download failed · 75 stopped, the same command continues · 78 the job file is
refused
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipemax",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pipemax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (run, validate, plan, preflight, status, top, results, bench, host_folders):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code of the process."""
    options = build_parser().parse_args(arguments)
    try:
        exit_code: int = options.command(options)
        sys.stdout.flush()
    except PipemaxError as error:
        return _fail(error.reason, str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output (`head`) has seen enough; Python's flush at exit must not fail.
        _point_at_nothing(sys.stdout.fileno())
        return os.EX_OK
    except Exception as error:
        traceback.print_exc()
        message = f"a bug: {type(error).__name__}: {error}; please report the lines above"
        return _fail(InvariantError.reason, message, InvariantError.exit_code)
    return exit_code


def _fail(reason: str, message: str, exit_code: int) -> int:
    write_termination_message(reason, message, exit_code)
    try:
        print(f"pipemax: {message}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        _point_at_nothing(sys.stderr.fileno())
    return exit_code


def _point_at_nothing(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
