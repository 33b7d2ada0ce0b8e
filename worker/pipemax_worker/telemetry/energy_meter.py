"""What the GPUs of this run draw: the driver's side of ``nvml_sampler``."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import msgspec

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.energy import EnergyTotals

SAMPLER = (sys.executable, "-m", "pipemax_worker.telemetry.nvml_sampler")
MAX_AGE_SECONDS = 10.0
"""An older power is nobody's any more; an energy stays."""
_END_SECONDS = 2.0


class GpuReading(msgspec.Struct, frozen=True):
    """One GPU: stage ``gpu``'s. ``watts`` and ``joules`` are None where they are not measured;
    joules and seconds count from the meter's start."""

    gpu: int
    watts: float | None
    joules: float | None
    seconds: float


class _Drawn(msgspec.Struct, frozen=True):
    watts: float | None = None
    joules: float = 0.0


class _Line(msgspec.Struct, frozen=True):
    gpus: tuple[_Drawn, ...] = ()
    error: str = ""


class EnergyMeter:
    """Starts the sampler and reads what it says, in a thread of its own. Use as a context manager.

    ``uuids``: the GPU of each stage; none: nothing is started and nothing told. Whatever fails here
    fails nothing: ``say`` is told once why nothing is measured.
    """

    def __init__(
        self,
        uuids: Sequence[str],
        clock: Clock,
        say: Callable[[str], None],
        sampler: Sequence[str] = SAMPLER,
    ) -> None:
        self._uuids = tuple(uuids)
        self._clock = clock
        self._say = say
        self._command = (*sampler, *uuids)
        self._start_seconds = clock.now()
        self._drawn: tuple[tuple[_Drawn, ...], float] = ((), clock.now())
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._read, name="energy", daemon=True)

    def __enter__(self) -> EnergyMeter:
        self._start_seconds = self._clock.now()
        if self._uuids:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a call into the driver that hangs
            process.wait(_END_SECONDS)
            self._thread.join(_END_SECONDS)
            if process.stdout is not None:
                process.stdout.close()

    @property
    def has_gpus(self) -> bool:
        return bool(self._uuids)

    def readings(self) -> tuple[GpuReading, ...]:
        """Of all GPUs, now. Cheap, for any thread."""
        now_seconds = self._clock.now()
        drawn, at_seconds = self._drawn
        is_old = now_seconds - at_seconds > MAX_AGE_SECONDS
        held_seconds = now_seconds - self._start_seconds
        return tuple(
            GpuReading(
                gpu,
                None if is_old or gpu >= len(drawn) else drawn[gpu].watts,
                drawn[gpu].joules if gpu < len(drawn) else None,
                held_seconds,
            )
            for gpu in range(len(self._uuids))
        )

    def totals(self) -> EnergyTotals:
        """Of all GPUs since the start."""
        readings = self.readings()
        return EnergyTotals(
            joules=sum(one.joules or 0.0 for one in readings),
            gpu_seconds=sum(one.seconds for one in readings),
        )

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run alone
            )
        except OSError as error:
            self._say(f"energy is not measured: {error}")
            return
        self._thread.start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                told = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError:
                continue
            if told.error:
                self._say(f"energy is not measured: {told.error}")
                return
            self._drawn = (told.gpus, self._clock.now())
