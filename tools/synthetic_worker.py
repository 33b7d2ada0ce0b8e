"""A worker without a model, for tools that try the data path: real claims, lines, chains, ledger.

Only the computing is made up: it takes a time for each line, and answers with nothing much.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.dataset.claims import ClaimedRange, ClaimLimits, RangeClaims
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.inputs import discover_inputs
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.ranges import MIN_RANGE_BYTES, choose_range_bytes
from pipemax_worker.dataset.reader import Line, RangeReader
from pipemax_worker.dataset.records import read_records
from pipemax_worker.dataset.segments import SegmentWriter

WAIT_SECONDS = 0.2

_T = TypeVar("_T")


def write_input(path: Path, num_lines: int, line_bytes: int) -> None:
    """``num_lines`` lines in the form of the OpenAI Batch API, each of about ``line_bytes``."""
    frame = (
        '{"custom_id": "line-%d", "method": "POST", "url": "/v1/completions", '
        '"body": {"model": "none", "prompt": "%s"}}\n'
    )
    prompt = "x" * max(1, line_bytes - len(frame % (num_lines, "")))
    with open(path, "w", buffering=1 << 20) as file:
        for number in range(num_lines):
            file.write(frame % (number, prompt))


def expected_offsets(path: Path) -> Iterator[int]:
    """Where the lines of the input begin."""
    offset = 0
    with open(path, "rb", buffering=1 << 20) as file:
        for line in file:
            yield offset
            offset += len(line)


def record_offsets(store: ObjectStore) -> Iterator[int]:
    """The lines of all records that lie in the store, doubled ones as often as they are there."""
    for key in store.list(RESULTS_PREFIX):
        for head, _ in read_records(key, store.get(key)):
            yield head.pipemax.offset


def open_ledger(store: ObjectStore, input_path: Path) -> Ledger:
    files = discover_inputs([input_path])
    range_bytes = choose_range_bytes(sum(file.size_bytes for file in files))
    fingerprint = build_fingerprint(model="synthetic")
    return Ledger.open_or_create(store, files, fingerprint, range_bytes, MIN_RANGE_BYTES)


def answer(line: Line) -> dict[str, Any]:
    """A record as ``prompts`` makes them."""
    usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
    body = {"object": "text_completion", "choices": [{"index": 0, "text": "x"}], "usage": usage}
    return {
        "id": f"batch_req_{line.key.offset:x}",
        "custom_id": None,
        "response": {"status_code": 200, "request_id": f"{line.key.offset:x}", "body": body},
        "error": None,
        "pipemax": {"file": line.key.file, "offset": line.key.offset, "line": None},
    }


class TimedStore:
    """An ``ObjectStore`` that counts the time its calls take, by the folder of the key."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    @property
    def place(self) -> str:
        return self._store.place

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._timed(key, lambda: self._store.put_if_absent(key, data))

    def put(self, key: str, data: bytes) -> None:
        self._timed(key, lambda: self._store.put(key, data))

    def get(self, key: str) -> bytes:
        return self._timed(key, lambda: self._store.get(key))

    def exists(self, key: str) -> bool:
        return self._timed(key, lambda: self._store.exists(key))

    def list(self, prefix: str) -> list[str]:
        return self._timed(prefix, lambda: self._store.list(prefix))

    def delete(self, key: str) -> None:
        self._timed(key, lambda: self._store.delete(key))

    def probe(self) -> None:
        self._store.probe()

    def _timed(self, key: str, call: Callable[[], _T]) -> _T:
        start = time.monotonic()
        try:
            return call()
        finally:
            folder = key.rpartition("/")[0]
            self.seconds[folder] += time.monotonic() - start
            self.calls[folder] += 1


class SyntheticWorker:
    """One worker's life over one job, one range at a time.

    compute            called with the number of lines in a step; takes the time that they take.
    on_record          called after each step with the records of this life so far.
    last_work_seconds  when it had done its last line, on the machine's monotonic clock.
    """

    def __init__(
        self,
        store: ObjectStore,
        input_path: Path,
        name: str,
        compute: Callable[[int], None],
        lines_per_step: int,
        limits: ClaimLimits | None = None,
        on_record: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.store = store
        self.ledger = open_ledger(store, input_path)
        self.clock = MonotonicClock()
        self.claims = RangeClaims(self.ledger, name, self.clock, limits)
        self._compute = compute
        self._lines_per_step = lines_per_step
        self._on_record = on_record
        self.num_computed = 0
        self.num_ranges = 0
        self.num_lost = 0
        self.last_work_seconds = self.clock.now()

    def run(self) -> None:
        """To the end of the job."""
        while not self.claims.is_exhausted:
            claimed = self.claims.take()
            if claimed is None:
                time.sleep(WAIT_SECONDS)
            else:
                self._serve(claimed)
        self.claims.close()

    def _serve(self, claimed: ClaimedRange) -> None:
        index = claimed.input_range.index
        writer = SegmentWriter.open(self.store, index, claimed.attempt, self.clock)
        self.num_ranges += 1
        num_lines = 0
        for lines in self._steps(RangeReader(claimed.input_range)):
            num_lines += len(lines)
            todo = [line for line in lines if line.key.offset not in writer.recorded]
            if todo:
                self._compute(len(todo))
            self.claims.keep_alive()
            for line in todo:
                writer.append(answer(line))
            self.num_computed += len(todo)
            if writer.is_lost:
                self.num_lost += 1
                return
            self._on_record(self.num_computed)
        if writer.flush():
            self.ledger.finish(writer.summary(num_lines))
            self.last_work_seconds = self.clock.now()
        else:
            self.num_lost += 1

    def _steps(self, lines: RangeReader) -> Iterator[Sequence[Line]]:
        step: list[Line] = []
        for line in lines:
            step.append(line)
            if len(step) == self._lines_per_step:
                yield step
                step = []
        if step:
            yield step
