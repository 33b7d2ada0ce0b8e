"""Ten million lines through reader, ledger and writer, without a model, with a kill in the middle.

    python tools/dataset_scale.py                     # 10 million lines: 5.5 GB of disk for a while
    python tools/dataset_scale.py --lines 200000

A worker process is killed (SIGKILL) when about half of the lines have a record, and a second one
goes on. Prints the rate, the memory and whether every line has exactly one record. Exits 1 if not,
or if a process needed 500 MB or more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "worker")]

from pipemax_worker.dataset.local_store import LocalStore  # noqa: E402 (the path is set above)
from pipemax_worker.dataset.manifest import write_manifest  # noqa: E402
from pipemax_worker.dataset.workers import name_this_worker  # noqa: E402
from synthetic_worker import (  # noqa: E402
    SyntheticWorker,
    expected_offsets,
    open_ledger,
    record_offsets,
    write_input,
)

MAX_RSS_BYTES = 500 * 1000 * 1000
LINE_BYTES = 200
RECORD_BYTES = 330
LINES_PER_STEP = 256


@dataclass(frozen=True)
class Life:
    """One worker process: how many records it made, in what time, and the most memory it had."""

    num_records: int
    seconds: float
    rss_bytes: int


def peak_memory_bytes() -> int:
    """Of this program alone: the kernel's ru_maxrss begins with what the parent had."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def work(input_path: Path, output: Path) -> None:
    """The worker process: tells what it has done, a line of JSON after each step."""
    start = time.monotonic()

    def tell(num_records: int) -> None:
        life = {
            "num_records": num_records,
            "seconds": time.monotonic() - start,
            "rss_bytes": peak_memory_bytes(),
        }
        print(json.dumps(life), flush=True)

    worker = SyntheticWorker(
        LocalStore(output),
        input_path,
        name_this_worker(),
        lambda _: None,
        LINES_PER_STEP,
        on_record=tell,
    )
    worker.run()
    write_manifest(worker.store, worker.ledger)
    tell(worker.num_computed)


def run_worker(input_path: Path, output: Path, kill_after: int | None = None) -> Life:
    """One life, to the end of the job or until so many records are made."""
    command = [sys.executable, __file__, "--work", str(input_path), str(output)]
    told: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if kill_after is not None and told["num_records"] >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
    if process.returncode != (0 if kill_after is None else -signal.SIGKILL):
        raise SystemExit(f"a worker ended with exit code {process.returncode}")
    return Life(int(told["num_records"]), told["seconds"], int(told["rss_bytes"]))


def check_records(output: Path, input_path: Path, num_lines: int) -> str | None:
    """What is wrong with the records, or None. 16 bytes a line."""
    found = np.fromiter(record_offsets(LocalStore(output)), dtype=np.int64)
    found.sort()
    expected = np.fromiter(expected_offsets(input_path), dtype=np.int64, count=num_lines)
    if np.array_equal(found, expected):
        return None
    num_doubled = len(found) - len(np.unique(found))
    return f"{len(found)} records for {num_lines} lines, {num_doubled} of them doubled"


def run(num_lines: int, folder: Path) -> int:
    """The trial in an empty folder, from the input to the verdict."""
    input_path, output = folder / "input.jsonl", folder / "out"
    write_input(input_path, num_lines, LINE_BYTES)
    first = run_worker(input_path, output, kill_after=num_lines // 2)
    second = run_worker(input_path, output)
    violation = check_records(output, input_path, num_lines)
    if not open_ledger(LocalStore(output), input_path).is_finished:
        violation = "not every range is done"
    report(num_lines, input_path.stat().st_size, first, second, violation)
    is_small = max(first.rss_bytes, second.rss_bytes) < MAX_RSS_BYTES
    return 0 if violation is None and is_small else 1


def report(
    num_lines: int, input_bytes: int, first: Life, second: Life, violation: str | None
) -> None:
    num_records, seconds = first.num_records + second.num_records, first.seconds + second.seconds
    print(
        f"{num_lines} lines, {input_bytes / 1e9:.2f} GB, local files with fsync; "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f}; "
        f"{platform.python_implementation()} {platform.python_version()}\n"
        f"  first life    {first.num_records} lines in {first.seconds:.0f} s, then SIGKILL; "
        f"{first.rss_bytes / 1e6:.0f} MB at most\n"
        f"  second life   {second.num_records} lines in {second.seconds:.0f} s; "
        f"{second.rss_bytes / 1e6:.0f} MB at most (goal: under {MAX_RSS_BYTES / 1e6:.0f})\n"
        f"  rate          {num_records / seconds:.0f} lines/s\n"
        f"  done twice    {num_records - num_lines} lines, of the segment that the kill took\n"
        f"  records       {violation or 'every line has exactly one'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        needed = arguments.lines * (LINE_BYTES + RECORD_BYTES) * 5 // 4
        if (free := shutil.disk_usage(folder).free) < needed:
            print(f"{folder}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed")
            return 1
        return run(arguments.lines, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
