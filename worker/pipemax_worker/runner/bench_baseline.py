"""Another engine as a process of its own: the driver's side of ``baselines.orders``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

import pipemax_worker
from pipemax_worker.errors import StageDiedError
from pipemax_worker.pipeline.cores import available_cores
from pipemax_worker.pipeline.launch import THREAD_VARIABLES, WAIT_POLICY, WAIT_VARIABLE
from pipemax_worker.runner.bench_work import BenchWork

MODULES = {"transformers": "pipemax_worker.baselines.transformers_cpu"}
LOG_TAIL_BYTES = 2000


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """One setting of the other engine. Fields as in ``baselines.orders.Order``."""

    method: str
    batch_size: int | None = None
    order: str | None = None
    max_requests: int | None = None
    page_size: int | None = None
    max_batch_tokens: int | None = None
    num_requests: int | None = None

    @property
    def name(self) -> str:
        fields = msgspec.structs.asdict(self)
        given = [
            f"{name}={value}"
            for name, value in fields.items()
            if name != "method" and value is not None
        ]
        return " ".join([self.method, *given])


TRANSFORMERS_ORDERS = (
    Order("padded", batch_size=16, order="output"),
    Order("padded", batch_size=32, order="output"),
    Order("padded", batch_size=8, order="total"),
    Order("padded", batch_size=16, order="total"),
    Order("padded", batch_size=32, order="total"),
    Order("continuous", max_requests=16, max_batch_tokens=256),
    Order("continuous", max_batch_tokens=256),
    Order("continuous", max_batch_tokens=512, page_size=128),
)
"""What is tried; the best of them counts."""


class Answer(msgspec.Struct, frozen=True):
    seconds: float
    token_ids: tuple[tuple[int, ...], ...]
    error: str | None


class Baseline:
    """A process that has loaded the model and runs one order at a time."""

    def __init__(self, engine: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._engine, self._process, self._log = engine, process, log
        self._orders, self._answers = process.stdin, process.stdout
        self._read()  # says that the model is loaded

    def run(self, order: Order) -> Answer:
        """Raises StageDiedError if the process is gone; ``Answer.error`` names other faults."""
        try:
            self._orders.write(msgspec.json.encode(order) + b"\n")
            self._orders.flush()
        except BrokenPipeError:
            raise self._died() from None
        return self._read()

    def _read(self) -> Answer:
        line = self._answers.readline()
        if not line:
            raise self._died()
        return msgspec.json.decode(line, type=Answer)

    def _died(self) -> StageDiedError:
        exit_code = self._process.wait()
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - LOG_TAIL_BYTES))
        tail = self._log.read().decode("utf-8", "replace").strip()
        return StageDiedError(f"{self._engine} ended with exit code {exit_code}:\n{tail}")


@contextlib.contextmanager
def open_baseline(engine: str, model_folder: Path, work: BenchWork) -> Iterator[Baseline]:
    """Start ``MODULES[engine]``, wait until it has loaded the model, and end it in the end.

    It gets this process's environment, threads for all cores, and threads that wait as those of our
    stages do. Raises StageDiedError if it cannot start.
    """
    cores = str(available_cores())
    with tempfile.TemporaryDirectory(prefix="pipemax-bench-") as folder:
        work_file, log_file = Path(folder, "work.json"), Path(folder, "log")
        work_file.write_bytes(msgspec.json.encode(work))
        with log_file.open("w+b") as log:
            command = [sys.executable, "-m", MODULES[engine], str(model_folder), str(work_file)]
            process = subprocess.Popen(
                [*command, cores],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(cores),
            )
            try:
                yield Baseline(engine, process, log)
            finally:
                process.kill()
                process.communicate()


def _environment(cores: str) -> dict[str, str]:
    package_folder = str(Path(pipemax_worker.__file__).parents[1])
    paths = (package_folder, os.environ.get("PYTHONPATH", ""))
    return {
        WAIT_VARIABLE: WAIT_POLICY,
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, cores),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
    }
