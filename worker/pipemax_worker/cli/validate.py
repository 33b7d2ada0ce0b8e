"""`pipemax validate FILE`: is the job file right, and is everything it names there?"""

from __future__ import annotations

import argparse
import sys

from pipemax_worker.cli.arguments import add_job_file, add_mounts
from pipemax_worker.runner.validation import validate_job


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "validate",
        help="check a job file, its model, input and output without running it",
        description="Checks the job file field by field, that model, tokenizer and input are "
        "there and supported, and that the output can be written. --input also checks every line.",
    )
    add_job_file(parser)
    add_mounts(parser)
    parser.add_argument(
        "--input",
        action="store_true",
        help="read the whole input: every line's request, and ids that repeat over all files",
    )
    parser.add_argument(
        "--schema-only",
        action="store_true",
        help="check the file alone: model, input and output may be on another machine",
    )
    parser.set_defaults(command=validate)


def validate(options: argparse.Namespace) -> int:
    report = validate_job(
        options.job_file,
        dict(options.mount),
        check_places=not options.schema_only,
        check_lines=options.input,
    )
    for line in report.lines:
        print(line)
    for fault in report.faults:
        print(fault, file=sys.stderr)
    return report.exit_code
