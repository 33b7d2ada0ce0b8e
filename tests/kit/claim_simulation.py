"""Many workers over one ledger on a virtual clock: what claims cost, and how they finish together.

Every worker is real but for its computing, which is so many bytes a second, and its store, whose
every call takes ``latency_seconds``. Calls happen in the order of their virtual times.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.chain import RangeSummary
from pipemax_worker.dataset.claims import ClaimedRange, ClaimLimits, RangeClaims
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.ranges import MIN_RANGE_BYTES, choose_range_bytes
from pipemax_worker.dataset.records import RecordCounts

TURN_SECONDS = 0.5


class SlowStore(MemoryStore):
    """A view of shared objects whose every call takes time on one worker's clock."""

    def __init__(self, shared: MemoryStore, clock: ManualClock, latency_seconds: float) -> None:
        super().__init__()
        self.objects = shared.objects
        self.clock = clock
        self.latency_seconds = latency_seconds
        self.seconds = 0.0
        self.calls: Counter[str] = Counter()

    def _spend(self, name: str, key: str) -> None:
        self.clock.seconds += self.latency_seconds
        self.seconds += self.latency_seconds
        self.calls[f"{name} {key.rpartition('/')[0]}"] += 1

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._spend("put_if_absent", key)
        return super().put_if_absent(key, data)

    def put(self, key: str, data: bytes) -> None:
        if key not in self.objects:
            self._spend("put", key)
        super().put(key, data)
        self.writes.clear()

    def get(self, key: str) -> bytes:
        self._spend("get", key)
        return super().get(key)

    def list(self, prefix: str) -> list[str]:
        self._spend("list", prefix)
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self._spend("delete", key)
        super().delete(key)


@dataclass
class SimulatedWorker:
    """``fate``: when it is killed, or frozen and woken, in seconds; None if never."""

    name: str
    claims: RangeClaims
    ledger: Ledger
    clock: ManualClock
    store: SlowStore
    bytes_per_second: float
    killed_at: float | None = None
    frozen: tuple[float, float] | None = None
    current: ClaimedRange | None = None
    left_bytes: float = 0.0
    last_work_seconds: float = 0.0
    ended: bool = False
    taken: list[ClaimedRange] = field(default_factory=list)

    def turn(self) -> None:
        """One turn of its loop: compute for a while, or take a range, or wait."""
        if self.frozen is not None and self.clock.seconds >= self.frozen[0]:
            self.clock.seconds, self.frozen = max(self.clock.seconds, self.frozen[1]), None
            return
        self.claims.keep_alive()
        if self.current is None:
            self.current = self.claims.take()
            if self.current is None:
                self.ended = self.claims.is_exhausted
                self.clock.seconds += TURN_SECONDS
                return
            self.taken.append(self.current)
            self.left_bytes = self.current.input_range.size_bytes
        seconds = min(TURN_SECONDS, self.left_bytes / self.bytes_per_second)
        self.clock.seconds += seconds
        self.left_bytes -= seconds * self.bytes_per_second
        if self.left_bytes <= 1e-6:
            self._finish(self.current)

    def _finish(self, claimed: ClaimedRange) -> None:
        index = claimed.input_range.index
        self.current = None
        if index not in self.ledger.done_ranges(index // 1000):
            self.last_work_seconds = self.clock.seconds
        self.ledger.finish(RangeSummary(index, RecordCounts(1), ()))


@dataclass(frozen=True)
class Outcome:
    workers: list[SimulatedWorker]
    ledger: Ledger

    @property
    def survivors(self) -> list[SimulatedWorker]:
        return [worker for worker in self.workers if worker.ended]

    @property
    def seconds(self) -> float:
        return max(worker.last_work_seconds for worker in self.survivors)

    @property
    def finish_spread_ratio(self) -> float:
        """Between the first and the last to run out of work, of the whole time."""
        return 1 - min(worker.last_work_seconds for worker in self.survivors) / self.seconds

    @property
    def num_refused(self) -> int:
        num_tried = sum(w.store.calls["put_if_absent ledger/claims"] for w in self.workers)
        return num_tried - sum(len(worker.taken) for worker in self.workers)

    def cost_ratio(self) -> float:
        """Time spent in the ledger's calls, of all workers' time until their last work."""
        spent = sum(worker.store.seconds for worker in self.survivors)
        return spent / sum(worker.last_work_seconds for worker in self.survivors)


def simulate(
    num_workers: int,
    total_bytes: int,
    seconds: float,
    latency_seconds: float = 0.01,
    num_killed: int = 0,
    num_frozen: int = 0,
    seed: int = 0,
    limits: ClaimLimits | None = None,
) -> Outcome:
    """``seconds``: about how long the job takes. Kills and freezes happen in its first half."""
    rng = random.Random(seed)
    shared = MemoryStore()
    files = [InputFile("a.jsonl", total_bytes, "hash")]
    rate = total_bytes / num_workers / seconds
    workers = []
    for number in range(num_workers):
        clock = ManualClock()
        store = SlowStore(shared, clock, latency_seconds)
        ledger = Ledger.open_or_create(
            store, files, build_fingerprint(), choose_range_bytes(total_bytes), MIN_RANGE_BYTES
        )
        store.seconds = clock.seconds = rng.random() * 0.02 * seconds
        store.seconds = 0.0
        claims = RangeClaims(ledger, f"worker-{number}", clock, limits)
        worker = SimulatedWorker(
            f"worker-{number}", claims, ledger, clock, store, rate * rng.uniform(0.9, 1.1)
        )
        moment = rng.uniform(0.05, 0.5) * seconds
        if number < num_killed:
            worker.killed_at = moment
        elif number < num_killed + num_frozen:
            worker.frozen = (moment, moment + rng.uniform(0.1, 0.3) * seconds)
        workers.append(worker)
    _run(workers)
    return Outcome(workers, workers[0].ledger)


def _run(workers: list[SimulatedWorker]) -> None:
    queue = [(worker.clock.seconds, number) for number, worker in enumerate(workers)]
    heapq.heapify(queue)
    while queue:
        now, number = heapq.heappop(queue)
        worker = workers[number]
        if worker.killed_at is not None and now >= worker.killed_at:
            continue
        worker.turn()
        if not worker.ended:
            heapq.heappush(queue, (worker.clock.seconds, number))
