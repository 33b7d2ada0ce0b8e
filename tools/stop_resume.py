"""Stop a job at half time and go on: what is computed twice, with parking and without it.

    python tools/stop_resume.py                       # quickstart and chat
    python tools/stop_resume.py --job manifests/examples/chat/job.yaml --requests 100

Each job is run twice, with an NVMe folder that lasts and without one. SIGTERM comes when half of
its input has records; then the same command goes on to the end. Every position of every request
that both runs computed is counted, by what their messages say: that is the cost of the stop.

Exits with 1 if a line has no record or two, or if parking does not compute less twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = [ROOT / "manifests/examples" / name / "job.yaml" for name in ("quickstart", "chat")]
STOPPED = 75


@dataclass(frozen=True)
class Figures:
    """Of one job that was stopped and went on. ``num_unfinished`` requests had
    ``num_computed_tokens`` positions computed when the first run ended."""

    num_unfinished: int
    num_computed_tokens: int
    num_twice: int
    num_restored: int
    seconds_to_stop: float
    parked_bytes: int
    num_records: int
    num_lines: int


# --- the child: one run that keeps count


def run_counted(job_file: Path, count_file: Path, known_file: Path | None, fraction: float) -> int:
    """Run the job in this process. ``fraction`` below 1: stop it there. ``known_file`` is what an
    earlier run has counted; positions of it that are computed again are counted as twice."""
    from pipemax_worker.cli.main import main
    from pipemax_worker.engine.engine import Engine
    from pipemax_worker.runner.job_run import JobRun

    known = json.loads(known_file.read_bytes())["ends"] if known_file else {}
    count: dict[str, Any] = {"ends": {}, "twice": 0, "stopped_at": None}
    submit, publish = Engine._submit, JobRun.publish

    def submit_counted(self: Engine, plan: Any) -> None:
        for row in plan.stage_input.scheduled:
            request = self.scheduler._lifecycle.states[row.request_id].request
            name = f"{request.key.file}:{request.key.offset}:{request.choice}"
            end = row.num_computed_tokens + row.num_new_tokens
            count["ends"][name] = max(end, count["ends"].get(name, 0))
            count["twice"] += max(0, min(end, known.get(name, 0)) - row.num_computed_tokens)
        submit(self, plan)

    def publish_counted(self: JobRun, phase: str) -> None:
        publish(self, phase)
        if phase == "Running" and self.snapshot.fraction_done >= fraction:
            count["stopped_at"] = count["stopped_at"] or time.time()
            os.kill(os.getpid(), signal.SIGTERM)
        unfinished = self._engine.unfinished_requests()
        names = [f"{one.key.file}:{one.key.offset}:{one.choice}" for one in unfinished]
        count["unfinished"] = [name for name in names if name in count["ends"]]
        count["restored"] = self.snapshot.statistics.num_restored_tokens
        count_file.write_text(json.dumps(count))

    Engine._submit = submit_counted  # type: ignore[method-assign]
    JobRun.publish = publish_counted  # type: ignore[method-assign]
    return main(["run", str(job_file)])


# --- the parent: two runs of one job


def write_job(source: Path, folder: Path, parks: bool, num_requests: int | None) -> Path:
    """The job with places of its own: an NVMe folder that lasts, or none."""
    job = yaml.safe_load(source.read_text())
    spec, base = job["spec"], source.resolve().parent
    lines = (base / spec["input"]["uri"]).read_bytes().splitlines(keepends=True)[:num_requests]
    (folder / "prompts.jsonl").write_bytes(b"".join(lines))
    spec["input"]["uri"] = "prompts.jsonl"
    spec["output"]["uri"] = "out"
    spec["model"]["uri"] = str((base / spec["model"]["uri"]).resolve())
    nvme = spec["kvCache"].pop("nvme")
    if parks:
        spec["kvCache"]["nvme"] = {"hostPath": str(folder / "nvme"), "size": nvme["size"]}
    job_file = folder / "job.yaml"
    job_file.write_text(yaml.safe_dump(job))
    return job_file


def run_child(
    job_file: Path, name: str, fraction: float, known: Path | None
) -> tuple[int, dict[str, Any], float]:
    """Exit code, what was counted, and when it ended."""
    count_file = job_file.parent / f"{name}.json"
    command = [sys.executable, __file__, "--child", str(job_file), str(count_file), str(fraction)]
    log = (job_file.parent / f"{name}.log").open("wb")
    with log:
        process = subprocess.run(
            [*command, *([str(known)] if known else [])], stdout=log, stderr=log, check=False
        )
    return process.returncode, json.loads(count_file.read_bytes()), time.time()


def measure(source: Path, parks: bool, fraction: float, num_requests: int | None) -> Figures:
    with tempfile.TemporaryDirectory(prefix="stop-resume-") as name:
        folder = Path(name)
        job_file = write_job(source, folder, parks, num_requests)
        code, first, ended = run_child(job_file, "first", fraction, None)
        if code != STOPPED:
            raise SystemExit(f"the stopped run ended with {code}:\n{tail(folder / 'first.log')}")
        parked_bytes = count_parked_bytes(folder / "nvme")
        code, second, _ = run_child(job_file, "second", 2.0, folder / "first.json")
        if code != 0:
            raise SystemExit(f"the second run ended with {code}:\n{tail(folder / 'second.log')}")
        keys = [
            (record["pipemax"]["file"], record["pipemax"]["offset"])
            for path in sorted((folder / "out/results").glob("*.jsonl"))
            for record in map(json.loads, path.read_bytes().splitlines())
        ]
        num_lines = len((folder / "prompts.jsonl").read_bytes().splitlines())
        return Figures(
            num_unfinished=len(first["unfinished"]),
            num_computed_tokens=sum(first["ends"][one] for one in first["unfinished"]),
            num_twice=second["twice"],
            num_restored=second["restored"],
            seconds_to_stop=ended - first["stopped_at"],
            parked_bytes=parked_bytes,
            num_records=len(keys) if len(keys) == len(set(keys)) else -1,
            num_lines=num_lines,
        )


def count_parked_bytes(nvme_folder: Path) -> int:
    """Bytes of the slots that the park index names, all stages together."""
    total = 0
    for path in nvme_folder.glob("*/park.json"):
        index = json.loads(path.read_bytes())["index"]
        slots = {slot for entry in index["entries"] for slot in entry["progress"]["nvme_slots"]}
        if index["geometry"]:
            num_slots = index["geometry"]["num_nvme_slots"]
            total += sum(
                len(slots) * (file.stat().st_size // num_slots)
                for file in path.parent.glob("stage-*.kv")
            )
    return total


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def show(job_name: str, parks: bool, figures: Figures) -> None:
    print(
        f"{job_name:12} {'on' if parks else 'off':>7} {figures.num_unfinished:>10} "
        f"{figures.num_computed_tokens:>15} {figures.num_twice:>14} {figures.num_restored:>8} "
        f"{figures.seconds_to_stop:>11.2f} {figures.parked_bytes / 2**20:>10.1f}   "
        f"{figures.num_records}/{figures.num_lines}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--job", type=Path, action="append", help="job file (repeat for several)")
    parser.add_argument("--fraction", type=float, default=0.5, help="stop where so much is done")
    parser.add_argument("--requests", type=int, help="only the first so many lines")
    options = parser.parse_args()
    print(
        "job          parking unfinished computed tokens computed twice restored "
        "stop (sec.) parked MiB   records"
    )
    is_good = True
    for source in options.job or EXAMPLES:
        found = {}
        for parks in (False, True):
            found[parks] = measure(source, parks, options.fraction, options.requests)
            show(source.resolve().parent.name, parks, found[parks])
            is_good &= found[parks].num_records == found[parks].num_lines
        is_good &= found[True].num_twice < max(1, found[False].num_twice)
    return 0 if is_good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        job, count, share, *known = sys.argv[2:]
        known_path = Path(known[0]) if known else None
        sys.exit(run_counted(Path(job), Path(count), known_path, float(share)))
    sys.exit(main())
