"""Kill real runs many times and see that no record is lost, doubled or wrong.

    python tools/kill_test.py                  # 100 SIGKILLs; `make kill-test`
    python tools/kill_test.py --kills 10 --seed 3

The questions of the quickstart go to the tiny model on two stages, in many small files. A run is
killed, started again, killed ... until the job is finished; then the next job begins, until all
kills are spent. Half of the kills come after a random number of records, the others after a random
time from the (re)start, which hits start-up too; one in four kills a stage, which the run must get
over by itself. At the end of each job every input line must have exactly one record, and every
answer must be right. Exits with 1 if anything was lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from check_answers import check, read_jsonl, read_records
from killable_run import ROOT, KillableRun

PROMPTS = ROOT / "manifests" / "examples" / "quickstart" / "prompts.jsonl"
MODEL = ROOT / "models" / "tiny"
LINES_PER_FILE = 22
MAX_RECORDS = 40
MAX_SECONDS = 10.0
STAGE_SHARE = 0.25
POLL_SECONDS = 0.02
RUN_SECONDS = 600.0
STAGE_DIED = 69


@dataclass(frozen=True)
class Kill:
    """``after_records`` since the last start or kill, or ``after_seconds`` if that is None."""

    target: str
    after_records: int | None
    after_seconds: float

    def is_due(self, waited_seconds: float, num_records: int) -> bool:
        if self.after_records is None:
            return waited_seconds >= self.after_seconds
        return num_records >= self.after_records

    @property
    def kind(self) -> str:
        trigger = "a random time" if self.after_records is None else "some records"
        return f"{self.target} after {trigger}"


@dataclass
class Tally:
    """What was done and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    records_at_kill: list[int] = field(default_factory=list)
    num_kills_at_start: int = 0
    num_runs: int = 0
    num_jobs: int = 0
    num_given_up: int = 0
    num_lines: int = 0
    num_missing: int = 0
    num_doubled: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        return self.num_jobs > 0 and not (self.num_missing or self.num_doubled or self.wrong)


def plan_kills(number: int, seed: int) -> list[Kill]:
    """Half of them after records, the others after a time; one in four kills a stage."""
    source = random.Random(seed)
    kills = []
    for index in range(number):
        records = source.randint(1, MAX_RECORDS) if index % 2 == 0 else None
        target = "stage" if source.random() < STAGE_SHARE else "driver"
        kills.append(Kill(target, records, source.uniform(0.0, MAX_SECONDS)))
    source.shuffle(kills)
    return kills


def write_job(folder: Path, requests: Sequence[bytes]) -> Path:
    """A job of small files, each of which is a range."""
    inputs = folder / "in"
    inputs.mkdir(parents=True)
    for start in range(0, len(requests), LINES_PER_FILE):
        lines = requests[start : start + LINES_PER_FILE]
        (inputs / f"{start:06d}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    spec: dict[str, Any] = {
        "model": {"uri": str(MODEL), "name": "tiny", "aliases": ["tiny-sorter"]},
        "input": {"uri": "in/*.jsonl"},
        "output": {"uri": "out"},
        "parallelism": {"stagesPerNode": 2},
        "engine": {"device": "cpu", "deviceKvCache": "16Mi", "maxNumRequests": 16},
        "kvCache": {"host": "64Mi", "nvme": {"emptyDir": {}, "size": "16Mi"}},
        "sampling": {"temperature": 0, "maxTokens": 200},
        "errorPolicy": {"maxFailedPercent": 100},
    }
    job = {
        "apiVersion": "pipemax.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "kill-test"},
        "spec": spec,
    }
    job_file = folder / "job.yaml"
    job_file.write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
    return job_file


def carry_out(job_file: Path, kills: list[Kill], source: random.Random, tally: Tally) -> None:
    """Run the job to its end; ``kills`` are used up from the end of the list."""
    run = start_run(job_file, tally)
    while True:
        kill = kills[-1] if kills else None
        exit_code = wait_for(run, kill)
        if exit_code == 0:
            return
        if exit_code is not None:
            if exit_code != STAGE_DIED:
                raise RuntimeError(f"the run ended with exit code {exit_code}:\n{run.said}")
            tally.num_given_up += 1  # several kills at one start; the same command goes on
            run = start_run(job_file, tally)
        elif kill is not None and carry_out_kill(run, kill, source, tally):
            kills.pop()
            if kill.target == "driver":
                run = start_run(job_file, tally)


def start_run(job_file: Path, tally: Tally) -> KillableRun:
    tally.num_runs += 1
    return KillableRun(job_file, job_file.parent / f"run-{tally.num_runs}.log")


def wait_for(run: KillableRun, kill: Kill | None) -> int | None:
    """Until it is time for ``kill``, or the run has ended: its exit code then."""
    start_seconds, first_done = time.monotonic(), None
    while (exit_code := run.exit_code) is None:
        waited_seconds = time.monotonic() - start_seconds
        if waited_seconds > RUN_SECONDS:
            run.kill()
            raise RuntimeError(f"no end after {RUN_SECONDS} s:\n{run.said}")
        done = run.count_done() if kill is not None and kill.after_records is not None else None
        first_done = done if first_done is None else first_done
        if kill is not None and kill.is_due(waited_seconds, (done or 0) - (first_done or 0)):
            return None
        time.sleep(POLL_SECONDS)
    return exit_code


def carry_out_kill(run: KillableRun, kill: Kill, source: random.Random, tally: Tally) -> bool:
    """False if there was nothing to kill: stages that have not started yet are waited for."""
    done = run.count_done()
    if kill.target == "stage":
        stages = run.stage_ids()
        if not stages:
            time.sleep(POLL_SECONDS)
            return False
        run.kill_stage(source.choice(stages))
    else:
        run.kill()
    tally.kills[kill.kind] += 1
    tally.records_at_kill.append(done or 0)
    tally.num_kills_at_start += done is None
    return True


def judge(folder: Path, tally: Tally) -> None:
    """Every line of the input exactly one record, and every answer right."""
    inputs = sorted((folder / "in").glob("*.jsonl"))
    expected: set[tuple[str, int]] = set()
    for path in inputs:
        offset = 0
        for line in path.read_bytes().splitlines(keepends=True):
            expected.add((path.name, offset))
            offset += len(line)
    records = list(read_records(folder / "out"))
    found = Counter(
        (Path(record["pipemax"]["file"]).name, record["pipemax"]["offset"]) for record in records
    )
    tally.num_jobs += 1
    tally.num_lines += len(expected)
    tally.num_missing += len(expected - found.keys())
    tally.num_doubled += sum(count - 1 for count in found.values())
    requests = [request for path in inputs for request in read_jsonl(path)]
    tally.wrong += check(requests, iter(records)).wrong


def describe(tally: Tally, seconds: float) -> str:
    kills = tally.kills.total()
    lines = [f"{kills} SIGKILLs in {seconds:.0f} s, {tally.num_runs} runs, {tally.num_jobs} jobs:"]
    lines += [f"  {count:4}  {kind}" for kind, count in sorted(tally.kills.items())]
    if tally.records_at_kill:
        at_kill = tally.records_at_kill
        lines.append(
            f"  records at a kill: {min(at_kill)} to {max(at_kill)}, median "
            f"{statistics.median(at_kill):.0f}; {tally.num_kills_at_start} kills during start-up"
        )
    if tally.num_given_up:
        lines.append(f"  {tally.num_given_up} runs gave up (exit {STAGE_DIED}) and were repeated")
    lines.append(
        f"{tally.num_lines} input lines: {tally.num_missing} without a record, "
        f"{tally.num_doubled} records too many, {len(tally.wrong)} answers wrong"
    )
    lines += [f"  {custom_id}: {reason[:300]}" for custom_id, reason in tally.wrong[:10]]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=616, help="questions of one job")
    options = parser.parse_args(arguments)
    kills, source = plan_kills(options.kills, options.seed), random.Random(options.seed)
    requests = PROMPTS.read_bytes().splitlines()[: options.lines]
    tally, start_seconds = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipemax-kill-test-") as name:
        while kills:
            folder = Path(name) / f"job-{tally.num_jobs}"
            carry_out(write_job(folder, requests), kills, source, tally)
            judge(folder, tally)
            print(f"job {tally.num_jobs} is done, {len(kills)} kills are left", flush=True)
    print(describe(tally, time.monotonic() - start_seconds))
    return 0 if tally.passes else 1


if __name__ == "__main__":
    raise SystemExit(main())
