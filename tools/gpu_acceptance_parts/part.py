"""What a part of the acceptance run is: a command, a limit of time, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = float | int | str | None
Json = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """Where the run is. ``memory_bytes``: of the smallest GPU."""

    num_gpus: int
    name: str
    memory_bytes: int = 0


@dataclass(frozen=True)
class Figure:
    """``goal`` in words; ``held``: whether it is reached, None where there is none to reach.

    is_speed   means nothing on a CPU, where sizes are tiny: it is shown there, and not judged.
    """

    name: str
    value: Value
    unit: str = ""
    goal: str = ""
    held: bool | None = None
    is_speed: bool = False


@dataclass(frozen=True)
class Setting:
    """What parts know of the run.

    folder     of logs and figures; ``scratch``, on its disk, goes at the end.
    is_cpu     tiny sizes on the CPU, to see that the parts work.
    earlier    figures of parts that have ended, by part and name.
    """

    machine: Machine
    folder: Path
    is_cpu: bool = False
    earlier: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def num_stages(self) -> int:
        """The most that this machine has GPUs for, of 1, 2, 4 and 8."""
        return 2 if self.is_cpu else max(n for n in (1, 2, 4, 8) if n <= self.machine.num_gpus)

    def file(self, name: str) -> Path:
        return self.folder / name


Command = Callable[[Setting], Sequence[object]]
Read = Callable[[Setting, str], list[Figure]]
"""(setting, all that the command printed) -> figures; of a command that was cut, those that there
are."""


@dataclass(frozen=True)
class Part:
    """``seconds``: its limit of time. ``min_gpus``: fewer are not enough; on a CPU a part with
    ``runs_on_cpu`` runs all the same. ``is_judged_by_exit``: another exit code than 0 is a failure
    even where every figure holds."""

    name: str
    shows: str
    seconds: float
    command: Command
    read: Read
    min_gpus: int = 1
    runs_on_cpu: bool = True
    is_judged_by_exit: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def is_named_by(self, name: str) -> bool:
        """By its own name, or by the first word of it."""
        return name in (self.name, self.name.partition("-")[0])

    def why_not_on(self, setting: Setting) -> str | None:
        """What this machine lacks for it."""
        if setting.is_cpu:
            return None if self.runs_on_cpu else "needs a GPU"
        if setting.machine.num_gpus < self.min_gpus:
            return f"needs {self.min_gpus} GPUs" if self.min_gpus > 1 else "needs a GPU"
        return None


def at_most(name: str, value: float | None, limit: float, unit: str = "") -> Figure:
    """A speed with a limit above."""
    held = None if value is None else value <= limit
    return Figure(name, value, unit, f"<= {limit:g}", held, is_speed=True)


def at_least(name: str, value: float | None, limit: float, unit: str = "") -> Figure:
    """A speed with a limit below."""
    held = None if value is None else value >= limit
    return Figure(name, value, unit, f">= {limit:g}", held, is_speed=True)


def speed(name: str, value: float | None, unit: str) -> Figure:
    """Without a goal of its own."""
    return Figure(name, value, unit, is_speed=True)
