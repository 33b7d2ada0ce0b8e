"""Structured output: does every answer follow its schema, and what does that cost?

    python tools/structured_output.py [--rounds N]

Runs the 200 prompts of manifests/examples/structured through `pipemax run`, parses every answer and
validates it against its schema, with formats, by the ``jsonschema`` library. Then the cost: the
same prompts in the same job without their schemas, each made to generate as many tokens as its
answer had (and one for the end); the two take turns. Tokens/s mean little while other programs want
the cores; CPU seconds (of all processes of a run, start and loading included) suffer less. Exits
with 1 unless every answer is valid.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from check_answers import read_records, text_of_record
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "manifests" / "examples" / "structured"
WORK_FOLDER = ROOT / "out" / "structured-output"

MARK = "PIPEMAX_STRUCTURED_OUTPUT"
POLL_SECONDS = 0.2

Record = dict[str, Any]


class Run(NamedTuple):
    """``mask_wait_seconds``: how long the last stage stood still for masks."""

    records: tuple[Record, ...]
    tokens_per_second: float
    cpu_seconds: float
    mask_wait_seconds: float


def fault_of(request: Record, record: Record | None) -> str | None:
    """Why an answer does not follow its request's schema, or None if it does."""
    if record is None:
        return "no record"
    text = text_of_record(record)
    if text is None:
        return f"error: {record.get('error')}"
    try:
        # Decimals: 19.99 is a multiple of 0.01, as floats it is not.
        value = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        return f"not JSON ({error}): {text!r}"
    schema = json.loads(json.dumps(schema_of(request)), parse_float=Decimal)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    faults = [error.message for error in validator.iter_errors(value)]
    return f"{'; '.join(faults)}: {text!r}" if faults else None


def schema_of(request: Record) -> Record:
    schema: Record = request["body"]["response_format"]["json_schema"]["schema"]
    return schema


def free_requests(requests: Iterable[Record], records: Iterable[Record]) -> list[Record]:
    """The same requests without their schemas, to generate as many tokens as ``records`` say."""
    num_tokens = {
        record["custom_id"]: record["response"]["body"]["usage"]["completion_tokens"]
        for record in records
    }
    return [request | {"body": _free(request, num_tokens)} for request in requests]


def _free(request: Record, num_tokens: dict[str, int]) -> Record:
    body = {name: value for name, value in request["body"].items() if name != "response_format"}
    return body | {"max_tokens": num_tokens[request["custom_id"]] + 1, "ignore_eos": True}


def run_job(requests: list[Record], folder: Path) -> Run:
    """`pipemax run` of these requests, with the example's job, in a fresh ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = yaml.safe_load((EXAMPLE / "job.yaml").read_text(encoding="utf-8"))
    model = (EXAMPLE / job["spec"]["model"]["uri"]).resolve()
    job["spec"]["model"]["uri"], job["spec"]["output"]["uri"] = str(model), "out"
    (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    (folder / job["spec"]["input"]["uri"]).write_text(lines, encoding="utf-8")
    command = [sys.executable, "-m", "pipemax_worker.cli.main", "run", str(folder / "job.yaml")]
    summary, cpu_seconds = run_and_count([*command, "--quiet"])
    speed, waited = read_summary(summary)
    return Run(tuple(read_records(folder / "out")), speed, cpu_seconds, waited)


def run_and_count(command: list[str]) -> tuple[str, float]:
    """The command's output, and the CPU seconds of all processes that it started, looked up while
    they live: those of one that ends are known up to its last POLL_SECONDS."""
    mark = f"{MARK}={uuid.uuid4().hex}"
    environment = os.environ | dict([mark.split("=")])
    seconds: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        while process.poll() is None:
            for process_id in processes_marked(mark.encode()):
                known = seconds.get(process_id, 0.0)
                seconds[process_id] = max(known, cpu_seconds(process_id))
            time.sleep(POLL_SECONDS)
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return output, sum(seconds.values())


def processes_marked(mark: bytes) -> list[int]:
    """Whose environment has the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process so far; 0 if it is gone."""
    try:
        status = (Path("/proc") / str(process_id) / "stat").read_text()
    except OSError:
        return 0.0
    fields = status.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_summary(summary: str) -> tuple[float, float]:
    """Generated tokens/s and the seconds of waiting for masks, out of a run's last words."""
    speed = re.search(r"speed +([\d.]+) generated tokens/s", summary)
    waited = re.search(r"schemas +([\d.]+) s", summary)
    if speed is None:
        raise ValueError(f"no speed in the summary of the run:\n{summary}")
    return float(speed[1]), float(waited[1]) if waited else 0.0


def report_answers(requests: list[Record], records: Iterable[Record]) -> tuple[str, bool]:
    """Valid answers by schema, the faults, and whether all are valid."""
    by_id = {record["custom_id"]: record for record in records}
    valid, total, faults = Counter[str](), Counter[str](), []
    for request in requests:
        name = request["body"]["response_format"]["json_schema"]["name"]
        fault = fault_of(request, by_id.get(request["custom_id"]))
        total[name] += 1
        valid[name] += fault is None
        if fault is not None:
            faults.append(f"  {request['custom_id']} ({name}): {fault[:300]}")
    lines = [f"{name:10} {valid[name]:4}/{total[name]}" for name in total]
    lines.append(f"{'all':10} {valid.total():4}/{total.total()} parse and validate")
    return "\n".join(lines + faults), not faults


def report_cost(bound: list[Run], free: list[Run]) -> str:
    """A line for each pair of runs, and the medians."""
    pairs = list(zip(bound, free, strict=True))
    speeds = [a.tokens_per_second / b.tokens_per_second for a, b in pairs]
    cpu = [a.cpu_seconds / b.cpu_seconds for a, b in pairs]
    lines = [
        f"with schemas {a.tokens_per_second:.1f} tokens/s, without {b.tokens_per_second:.1f}: "
        f"{speed:.3f}; {a.cpu_seconds:.1f} CPU s, without {b.cpu_seconds:.1f}: {ratio:.3f}; "
        f"waited {a.mask_wait_seconds:.3f} s for masks"
        for (a, b), speed, ratio in zip(pairs, speeds, cpu, strict=True)
    ]
    medians = f"{statistics.median(speeds):.3f} x the tokens/s, {statistics.median(cpu):.3f} x"
    return "\n".join([*lines, f"median: {medians} the CPU seconds"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2, help="pairs of runs (default 2)")
    options = parser.parse_args(arguments)
    lines = (EXAMPLE / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    requests = [json.loads(line) for line in lines]
    bound, free = list[Run](), list[Run]()
    for number in range(options.rounds):
        bound.append(run_job(requests, WORK_FOLDER / f"bound-{number}"))
        if number == 0:
            answers, is_valid = report_answers(requests, bound[0].records)
            print(answers, flush=True)
        unbound = free_requests(requests, bound[0].records)
        free.append(run_job(unbound, WORK_FOLDER / f"free-{number}"))
        print(report_cost(bound[-1:], free[-1:]).splitlines()[0], flush=True)
    print(report_cost(bound, free).splitlines()[-1])
    return 0 if is_valid else 1


if __name__ == "__main__":
    raise SystemExit(main())
