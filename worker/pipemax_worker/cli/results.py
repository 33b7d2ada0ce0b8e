"""`pipemax results FILE`: the records as JSON lines, in the order of the input."""

from __future__ import annotations

import argparse
import sys

import msgspec

from pipemax_worker.cli.arguments import add_job_file, add_mounts
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.records import RecordHead
from pipemax_worker.dataset.results import iterate_results
from pipemax_worker.job.load import load_job
from pipemax_worker.runner.places import resolve_output


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "results",
        help="print a job's records, in the order of its input",
        description="Prints one JSON line a request, also while the job still runs. "
        "`pipemax results job.yaml --text` prints the answers alone.",
    )
    add_job_file(parser)
    add_mounts(parser)
    parser.add_argument("--failed", action="store_true", help="only records of failed requests")
    parser.add_argument(
        "--text",
        action="store_true",
        help="custom_id, a tab, and the answer (the first one of several) as a JSON string",
    )
    parser.add_argument("--unordered", action="store_true", help="as written: faster")
    parser.set_defaults(command=results)


def results(options: argparse.Namespace) -> int:
    job = load_job(options.job_file)
    store = open_store(resolve_output(job, options.job_file, dict(options.mount)))
    Ledger.load(store)  # says so where no job was ever started
    head = msgspec.json.Decoder(RecordHead)
    output = sys.stdout.buffer
    for line in iterate_results(store, ordered=not options.unordered):
        if not options.failed or head.decode(line).is_failed:
            output.write((text_of(line) if options.text else line) + b"\n")
    output.flush()
    return 0


def text_of(line: bytes) -> bytes:
    """``custom_id``, a tab, and the first choice's text as a JSON string, or the error."""
    record = msgspec.json.decode(line)
    if record["error"] is not None:
        text = f"error {record['error']['code']}: {record['error']['message']}"
    else:
        choice = record["response"]["body"]["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    custom_id: str = record["custom_id"] or "-"
    return custom_id.encode() + b"\t" + msgspec.json.encode(text)
