"""Many worker processes share one job in an S3 bucket; a third are killed, or frozen and woken.

    python tools/many_workers.py                          # 64 workers, about 6 minutes
    python tools/many_workers.py --workers 8 --seconds 60 --mebibytes 32

Claims, heartbeats, lines, chains and ledger are the real ones; computing is sleeping, so many lines
at a time as a small engine would have. The server is a real S3 server process on loopback. Prints
what claims and heartbeats cost, how far apart the workers finished, and whether every line has
exactly one record. Exits 1 if not, or if a goal is missed (1 % of the time, 2 % apart).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "worker")]

from kit.s3_gateway import BINARY, S3Gateway  # noqa: E402 (the path is set above)
from kit.s3_server import S3Server  # noqa: E402
from pipemax_worker.dataset.object_store import ObjectStore  # noqa: E402
from pipemax_worker.dataset.s3_store import open_s3  # noqa: E402
from synthetic_worker import (  # noqa: E402
    SyntheticWorker,
    TimedStore,
    expected_offsets,
    open_ledger,
    record_offsets,
    write_input,
)
from worker_figures import Figures, Process, by_folder, count_kept, measure  # noqa: E402

STEP_SECONDS = 0.5
STARTED_WITHIN_RATIO = 0.04
MAX_COST_RATIO = 0.01
MAX_SPREAD_RATIO = 0.02


@dataclass(frozen=True)
class Trial:
    """``seconds``: about how long all workers together take if nobody dies."""

    num_workers: int
    seconds: float
    mebibytes: int
    line_bytes: int
    num_killed: int
    num_frozen: int
    seed: int
    server: str

    @property
    def num_lines(self) -> int:
        return self.mebibytes * 2**20 // self.line_bytes

    @property
    def line_seconds(self) -> float:
        """Of one worker."""
        return self.seconds * self.num_workers / self.num_lines


def run_worker(
    uri: str, server: S3Server | S3Gateway, path: Path, name: str, report: Path, t: Trial
) -> None:
    """The life of one worker process."""
    store = TimedStore(open_s3(uri, server.environment))
    start = time.monotonic()
    lines_per_step = max(1, round(STEP_SECONDS / t.line_seconds))
    worker = SyntheticWorker(
        store, path, name, lambda count: time.sleep(count * t.line_seconds), lines_per_step
    )
    worker.run()
    told: dict[str, Any] = {
        "start": start,
        "last_work": worker.last_work_seconds,
        "end": time.monotonic(),
        "store_seconds": store.seconds,
        "store_calls": store.calls,
        "num_computed": worker.num_computed,
        "num_ranges": worker.num_ranges,
        "num_lost": worker.num_lost,
    }
    report.write_text(json.dumps(told))


def start_workers(
    uri: str, server: S3Server | S3Gateway, path: Path, folder: Path, t: Trial
) -> list[Process]:
    """Fork: imports cost a second of a core each otherwise."""
    processes = []
    for number in range(t.num_workers):
        name, report = f"node{number}", folder / f"{number}.json"
        pid = os.fork()
        if pid == 0:
            try:
                # Pods do not start in the same moment either.
                time.sleep(t.seconds * STARTED_WITHIN_RATIO * number / t.num_workers)
                run_worker(uri, server, path, name, report, t)
                os._exit(0)
            except BaseException as error:  # a forked child must not go on in the parent's code
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        processes.append(Process(pid, name, report))
    return processes


def choose_fates(processes: list[Process], t: Trial, start: float) -> None:
    rng = random.Random(t.seed)
    victims = rng.sample(processes, t.num_killed + t.num_frozen)
    for number, victim in enumerate(victims):
        moment = start + t.seconds * rng.uniform(0.05, 0.55)
        if number < t.num_killed:
            victim.killed = moment
        else:
            victim.frozen = (moment, moment + t.seconds * rng.uniform(0.1, 1.2))


def disturb_until_all_end(processes: list[Process]) -> None:
    """Kill, freeze and wake as chosen; return when nobody is left. Who is frozen when the others
    have ended is woken at once."""
    events = [(p.killed, p, signal.SIGKILL) for p in processes if p.killed is not None]
    for p in processes:
        if p.frozen is not None:
            events += [(p.frozen[0], p, signal.SIGSTOP), (p.frozen[1], p, signal.SIGCONT)]
    events.sort(key=lambda event: event[0])
    left = {p.pid: p for p in processes}
    try:
        _disturb(left, events)
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def _disturb(left: dict[int, Process], events: list[tuple[float, Process, int]]) -> None:
    while left:
        now = time.monotonic()
        is_over = all(p.frozen is not None for p in left.values())
        while events and (events[0][0] <= now or is_over):
            _, process, number = events.pop(0)
            if process.pid in left:
                os.kill(process.pid, number)
        for pid in list(left):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del left[pid]
        time.sleep(0.05)


def check_records(store: ObjectStore, path: Path) -> str | None:
    """What is wrong with the records, or None."""
    counts = Counter(record_offsets(store))
    expected = set(expected_offsets(path))
    if missing := expected - counts.keys():
        return f"{len(missing)} lines have no record"
    if foreign := counts.keys() - expected:
        return f"{len(foreign)} records belong to no line"
    doubled = sum(1 for count in counts.values() if count > 1)
    return f"{doubled} lines have more than one record" if doubled else None


def report(t: Trial, f: Figures, num_kept: int, load: float, violation: str | None) -> None:
    print(
        f"{t.num_workers} worker processes, {t.num_killed} killed, {t.num_frozen} frozen "
        f"({f.num_woken} woken before the end); {t.num_lines} lines of {t.line_bytes} bytes, "
        f"{1000 * t.line_seconds:.0f} ms each\n"
        f"started over {t.seconds * STARTED_WITHIN_RATIO:.0f} s; "
        f"one S3 server process ({t.server}) on loopback; {os.cpu_count()} cores, "
        f"load average {load:.1f}; {platform.python_implementation()} {platform.python_version()}\n"
        f"  time              {f.seconds:.0f} s until the last line\n"
        f"  claims, heartbeats {100 * f.cost_ratio:.2f} % of the workers' time (goal: under 1)\n"
        f"  finished within   {100 * f.spread_ratio:.2f} % of each other, "
        f"{100 * f.spread_with_woken_ratio:.2f} % with those that were woken (goal: 2)\n"
        f"  store             {f.num_calls / f.seconds:.0f} calls/s by the undisturbed, "
        f"{1000 * f.call_seconds / max(1, f.num_calls):.1f} ms each\n"
        f"                    {by_folder(f)}\n"
        f"  for nothing       {f.num_computed - num_kept} lines of those that were not killed: "
        "theirs were taken over\n"
        f"  records           {violation or 'every line has exactly one'}"
    )


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--line-bytes", type=int, default=2048)
    parser.add_argument("--disturbed", type=int, help="killed or frozen (default: a third)")
    parser.add_argument("--seed", type=int, default=0)
    default = "versitygw" if BINARY.exists() else "moto"
    parser.add_argument("--server", choices=["versitygw", "moto"], default=default)
    arguments = parser.parse_args()
    num_disturbed = arguments.workers // 3 if arguments.disturbed is None else arguments.disturbed
    t = Trial(
        arguments.workers,
        arguments.seconds,
        arguments.mebibytes,
        arguments.line_bytes,
        num_disturbed - num_disturbed // 2,
        num_disturbed // 2,
        arguments.seed,
        arguments.server,
    )
    return run(t)


def run(t: Trial) -> int:
    """The trial, from the bucket to the verdict."""
    server = S3Gateway() if t.server == "versitygw" else S3Server()
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(folder) / "input.jsonl"
            write_input(path, t.num_lines, t.line_bytes)
            uri = f"{server.new_bucket()}/job"
            start = time.monotonic()
            processes = start_workers(uri, server, path, Path(folder), t)
            choose_fates(processes, t, start)
            disturb_until_all_end(processes)
            load = os.getloadavg()[1]
            store = open_s3(uri, server.environment)
            violation = check_records(store, path)
            if not open_ledger(store, path).is_finished:
                violation = "not every range is done"
            figures = measure(processes, start)
            num_kept = count_kept(store, processes)
        finally:
            server.stop()
    report(t, figures, num_kept, load, violation)
    is_met = figures.cost_ratio < MAX_COST_RATIO and figures.spread_ratio < MAX_SPREAD_RATIO
    return 0 if is_met and violation is None else 1


if __name__ == "__main__":
    sys.exit(main())
