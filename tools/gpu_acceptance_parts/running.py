"""Runs parts, each as a process group of its own with a limit of time, and writes down what they
found as soon as they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gpu_acceptance_parts.part import Figure, Json, Part, Setting

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 20.0
LEAST_SHARE = 1 / 3
"""Of a part's limit: with less left of the budget it is not started, and a shorter one may be."""

RESULTS = "results.jsonl"
HELD, MISSED, FAILED, RAN = "held", "missed", "failed", "ran"
OUT_OF_TIME, CUT, NOT_STARTED = "out of time", "cut", "not started"
BAD = (MISSED, FAILED, OUT_OF_TIME, CUT, NOT_STARTED)

Say = Callable[[str], None]


class Interrupted(Exception):
    """A signal that ends the whole run."""


@dataclass(frozen=True)
class Result:
    """Of one part. ``outcome``: held, missed, failed, ran (without a goal), out of time, cut, not
    started, or what the machine lacks."""

    part: str
    outcome: str
    seconds: float = 0.0
    figures: tuple[Figure, ...] = ()
    command: str = ""
    fault: str = ""

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True)
class Ended:
    """``code``: None for what was stopped, being out of time."""

    code: int | None
    printed: str
    seconds: float
    was_interrupted: bool = False


class Run:
    """One run of the acceptance, whose results are lines of ``results.jsonl``.

    ``conditions``: said in every line. ``budget_seconds``: of all parts together; None: no limit.
    """

    def __init__(
        self, setting: Setting, conditions: Json, budget_seconds: float | None, say: Say
    ) -> None:
        self._setting, self._conditions, self._say = setting, conditions, say
        limit = float("inf") if budget_seconds is None else budget_seconds
        self._end = time.monotonic() + limit
        self.results: list[Result] = []

    def carry_out(self, parts: Iterable[Part]) -> list[Result]:
        """In their order; after a signal the rest is not started."""
        is_over = False
        for part in parts:
            result = self._not_started(part) if is_over else self._carry_out(part)
            is_over |= result.outcome == CUT
            self.results.append(result)
            self._write(result)
        return self.results

    def _carry_out(self, part: Part) -> Result:
        if (lacking := part.why_not_on(self._setting)) is not None:
            return Result(part.name, lacking)
        left = self._end - time.monotonic()
        if left < max(LEAST_SECONDS, LEAST_SHARE * part.seconds):
            return self._not_started(part)
        self._say(f"--- {part.name}: {part.shows}")
        setting = replace(self._setting, earlier=self._earlier())
        try:
            command = list(map(str, part.command(setting)))
        except (OSError, ValueError, KeyError) as error:
            return Result(part.name, FAILED, fault=f"no command: {error!r}")
        log = setting.file(f"{part.name}.log")
        ended = run_limited(command, part.environment, log, min(part.seconds, left))
        result = judge(part, setting, command, ended)
        self._say(f"    {result.outcome} after {result.seconds:.0f} s {result.fault}".rstrip())
        for figure in result.figures:
            self._say(f"    {describe_figure(figure)}")
        return result

    @staticmethod
    def _not_started(part: Part) -> Result:
        return Result(part.name, NOT_STARTED, fault="too little time was left")

    def _earlier(self) -> dict[str, dict[str, float | int | str | None]]:
        known = read_results(self._setting.file(RESULTS))
        return {name: {f.name: f.value for f in one.figures} for name, one in known.items()}

    def _write(self, result: Result) -> None:
        line = result.as_json() | {"conditions": self._conditions, "at": time.time()}
        with self._setting.file(RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_results(path: Path) -> dict[str, Result]:
    """The last one of each part. A line that was cut off is none."""
    found: dict[str, Result] = {}
    if not path.is_file():
        return found
    for line in path.read_text("utf-8").splitlines():
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            figures = tuple(Figure(**figure) for figure in fields["figures"])
            kept = {name: fields[name] for name in Result.__dataclass_fields__}
            found[fields["part"]] = Result(**kept | {"figures": figures})
    return found


def run_limited(
    command: Sequence[str], environment: Mapping[str, str], log: Path, seconds: float
) -> Ended:
    """The command's output goes to ``log``. At its limit, or where a signal ends us, its whole
    process group is killed."""
    start = time.monotonic()
    with log.open("wb") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
            env=part_environment(environment), start_new_session=True,
        )  # fmt: skip
        code, was_interrupted = None, False
        try:
            with _signals_as_exceptions():
                code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        except Interrupted:
            was_interrupted = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # stages outlive a tool that was stopped
            process.wait()
    printed = log.read_text("utf-8", errors="replace")
    return Ended(code, printed, time.monotonic() - start, was_interrupted)


def part_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Without an installed package: the checkout's own code."""
    path = [str(ROOT / "worker"), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **ours, **more}


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, interrupt) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def judge(part: Part, setting: Setting, command: Sequence[str], ended: Ended) -> Result:
    """What became of a part, from its exit code and its figures."""
    figures, fault = _read(part, setting, ended)
    goals = [figure.held for figure in figures if figure.held is not None]
    outcome = (HELD if goals else RAN) if all(goals) else MISSED
    if ended.code is None:
        outcome = CUT if ended.was_interrupted else OUT_OF_TIME
        fault = fault or f"stopped after {ended.seconds:.0f} s"
    elif fault or (ended.code != 0 and outcome != MISSED and part.is_judged_by_exit):
        outcome, fault = FAILED, fault or f"exit {ended.code}"
    if outcome in (FAILED, OUT_OF_TIME):
        fault += f"; the log ends: {last_words(ended.printed)}"
    return Result(part.name, outcome, round(ended.seconds, 1), figures, " ".join(command), fault)


def _read(part: Part, setting: Setting, ended: Ended) -> tuple[tuple[Figure, ...], str]:
    try:
        figures = part.read(setting, ended.printed)
    except Exception as error:  # a reader meets whatever a broken program leaves
        return (), f"no figures: {error!r}"
    if setting.is_cpu:
        figures = [replace(one, held=None) if one.is_speed else one for one in figures]
    return tuple(figures), ""


def last_words(printed: str, num_lines: int = 3) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return " | ".join(lines[-num_lines:])[-500:]


def describe_figure(figure: Figure) -> str:
    value = f"{figure.value:.4g}" if isinstance(figure.value, float) else str(figure.value)
    verdict = {True: "held", False: "MISSED", None: ""}[figure.held]
    goal = f"(goal {figure.goal}) {verdict}" if figure.goal else ""
    return f"{figure.name}: {value} {figure.unit} {goal}".rstrip()


def table(results: Iterable[Result]) -> list[str]:
    """A row for each goal and each part without one; parts that found nothing say why."""
    rows = [("part", "figure", "goal", "measured", "")]
    for result in results:
        goals = [one for one in result.figures if one.goal] or list(result.figures[:1])
        for one in goals:
            value = f"{one.value:.4g}" if isinstance(one.value, float) else str(one.value)
            verdict = {True: "held", False: "MISSED", None: "-"}[one.held]
            rows.append((result.part, one.name, one.goal, f"{value} {one.unit}".strip(), verdict))
        if not goals or result.outcome in (FAILED, OUT_OF_TIME, CUT):
            rows.append((result.part, "", "", "", result.outcome))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def exit_code(results: Iterable[Result]) -> int:
    return int(any(result.outcome in BAD for result in results))


def python(*words: object) -> list[object]:
    """A command of this interpreter."""
    return [sys.executable, *words]
