"""`pipemax`: parse the command line, run one command, turn its error into an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipemax_worker.cli import results, run, status, validate
from pipemax_worker.errors import PipemaxError
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
missing · 69 a stage or a GPU died · 74 output or NVMe storage failed · 75 stopped, can be continued
· 78 the job file is refused
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipemax",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (run, validate, status, results):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code of the process."""
    options = build_parser().parse_args(arguments)
    try:
        exit_code: int = options.command(options)
    except PipemaxError as error:
        print(f"pipemax: {error}", file=sys.stderr)
        write_termination_message(error.reason, str(error), error.exit_code)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output (`head`) has seen enough.
        sys.stderr.close()
        return 0
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
