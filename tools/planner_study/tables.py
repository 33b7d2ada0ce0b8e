"""Outcomes as tables of Markdown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from planner_study.cells import (
    ABLATED,
    ABLATIONS,
    GROUNDS,
    ROTATING,
    SYSTEMS,
    WITHOUT_BUFFER,
    WORKLOADS,
    Cell,
)
from planner_study.running import Outcome, Trial

PAPER = {"tdpipe-predictor": 1.42, "seesaw": 1.38, "vllm": 2.51, "vllm-tp": 2.45}
"""How much faster ``pipemax`` is at best, as published."""

PAPER_GROUNDS = {
    ("8x5090", "Llama-2-70B"),
    ("8x5090", "Mixtral-8x7B"),
    ("8xl20", "Llama-2-70B"),
    ("8xl20", "Mixtral-8x7B"),
    ("8xh100", "Qwen3-235B-A22B"),
}
PAPER_WORKLOADS = ("sharegpt", "longbench")

Row = Sequence[str]


class Results:
    """Outcomes by cell and number of requests. Of one cell the largest run counts, of two that are
    compared the largest that both have."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._outcomes: dict[Cell, dict[int, Outcome]] = {}
        for outcome in outcomes:
            self._outcomes.setdefault(outcome.cell, {})[outcome.num_requests] = outcome

    def size(self, *cells: Cell) -> int:
        """Requests of the largest run that all of ``cells`` have; 0: there is none."""
        sizes = [
            {size for size, outcome in self._outcomes.get(cell, {}).items() if outcome.best}
            for cell in cells
        ]
        return max(set.intersection(*sizes), default=0)

    def best(self, cell: Cell, size: int | None = None) -> Trial | None:
        """None if it was not run or cannot run."""
        outcome = self._outcomes.get(cell, {}).get(size or self.size(cell))
        return None if outcome is None else outcome.best

    def rate(self, cell: Cell, size: int | None = None) -> float | None:
        """Tokens a second, in and out, with the tail."""
        best = self.best(cell, size)
        return None if best is None else best.tokens_per_second

    def ratio(self, one: Cell, other: Cell) -> float | None:
        size = self.size(one, other)
        ours, theirs = self.rate(one, size), self.rate(other, size)
        return None if not size or ours is None or theirs is None else ours / theirs

    def __len__(self) -> int:
        return len(self._outcomes)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(sorted({size for runs in self._outcomes.values() for size in runs}))

    @property
    def cpu_seconds(self) -> float:
        outcomes = (outcome for runs in self._outcomes.values() for outcome in runs.values())
        return sum(outcome.best.cpu_seconds for outcome in outcomes if outcome.best)


def natural_cell(hardware: str, model: str, workload: str, system: str, kv: str = "bf16") -> Cell:
    """A system as it is meant to be: with a host tier if it can use one."""
    return Cell(hardware, model, workload, system, kv, host=system not in WITHOUT_BUFFER)


def grounds() -> Iterator[tuple[str, str, str]]:
    for hardware, model in GROUNDS:
        for workload in WORKLOADS:
            yield hardware, model, workload


def rates_table(results: Results, kv: str) -> list[str]:
    """Tokens a second of every system on every ground; the fastest in bold."""
    header = ("cards", "model", "lengths", "requests", *SYSTEMS)
    rows = []
    for ground in grounds():
        cells = [natural_cell(*ground, system, kv) for system in SYSTEMS]
        size = max(map(results.size, cells))
        rates = [results.rate(cell, size) for cell in cells]
        known = [rate for rate in rates if rate is not None]
        if known:
            fastest = max(known)
            cells_text = (_rate(rate, rate == fastest) for rate in rates)
            rows.append((*ground, f"{size:,}", *cells_text))
    return _table(header, rows)


def paper_table(results: Results) -> list[str]:
    """``pipemax`` over each rival beside the paper's best ratio."""
    header = ("rival", "paper, at best", "simulated on its grounds", "best on", "on all grounds")
    rows = []
    for rival, published in PAPER.items():
        theirs = _ratios(results, "pipemax", rival, _is_papers)
        everywhere = _ratios(results, "pipemax", rival, lambda _: True)
        if not everywhere:
            continue
        best = max(theirs, key=lambda pair: pair[1]) if theirs else None
        rows.append(
            (
                rival,
                f"{published:.2f}",
                _range([ratio for _, ratio in theirs]),
                ", ".join(best[0]) if best else "-",
                _range([ratio for _, ratio in everywhere]),
            )
        )
    return _table(header, rows)


def _is_papers(ground: tuple[str, str, str]) -> bool:
    return ground[:2] in PAPER_GROUNDS and ground[2] in PAPER_WORKLOADS


def _ratios(
    results: Results, one: str, other: str, wanted: Callable[[tuple[str, str, str]], bool]
) -> list[tuple[tuple[str, str, str], float]]:
    pairs = []
    for ground in grounds():
        ratio = results.ratio(natural_cell(*ground, one), natural_cell(*ground, other))
        if ratio is not None and wanted(ground):
            pairs.append((ground, ratio))
    return pairs


def ours_table(results: Results) -> list[str]:
    """``fused`` over ``pipemax``, and what the host tier and 8-bit KV are worth to both."""
    header = (
        "cards", "model", "lengths", "fused / pipemax", "fused: host tier on / off",
        "pipemax: on / off", "fused: FP8 KV / bf16", "tokens a step", "steady share",
    )  # fmt: skip
    rows = []
    for ground in grounds():
        ours, paper = (natural_cell(*ground, system) for system in ("fused", "pipemax"))
        best = results.best(ours)
        if best is None:
            continue
        values = (
            results.ratio(ours, paper),
            results.ratio(ours, msgspec.structs.replace(ours, host=False)),
            results.ratio(paper, msgspec.structs.replace(paper, host=False)),
            results.ratio(msgspec.structs.replace(ours, kv="fp8"), ours),
        )
        rows.append(
            (
                *ground,
                *map(_ratio, values),
                f"{best.mean_batch_tokens:.0f}",
                f"{best.steady_seconds / best.seconds:.0%}",
            )
        )
    return _table(header, rows)


def ablations_table(results: Results) -> list[str]:
    """What is left of the speed without each part, where that was run."""

    def ratio(ground: tuple[str, str, str], system: str, ablation: str) -> float | None:
        whole = Cell(*ground, system)
        return results.ratio(msgspec.structs.replace(whole, ablation=ablation), whole)

    columns = [
        (ground, system)
        for ground in ABLATED
        for system in ROTATING
        if any(ratio(ground, system, ablation) is not None for ablation in ABLATIONS)
    ]
    header = (
        "without",
        *(f"{system}, {hw} {model} {work}" for (hw, model, work), system in columns),
    )
    rows = []
    for ablation in ABLATIONS:
        ratios = [ratio(ground, system, ablation) for ground, system in columns]
        if any(ratio is not None for ratio in ratios):
            rows.append((ablation, *map(_ratio, ratios)))
    return _table(header, rows)


def shares_table(results: Results) -> list[str]:
    """Where the busiest stage's time goes, for systems of our engine."""
    header = (
        "cards", "model", "lengths", "system", "weights", "KV", "arithmetic", "fixed",
        "waits for the link", "bubbles", "host link busy",
    )  # fmt: skip
    rows = []
    for ground in grounds():
        for system in ("fused", "pipemax", "tdpipe", "vllm"):
            best = results.best(natural_cell(*ground, system))
            if best is None or best.shares is None:
                continue
            s = best.shares
            parts = (
                s.weights, s.kv_reading, s.arithmetic, s.fixed, s.link, s.bubbles, s.host_link,
            )  # fmt: skip
            rows.append((*ground, system, *(f"{part:.0%}" for part in parts)))
    return _table(header, rows)


def _rate(rate: float | None, is_fastest: bool) -> str:
    if rate is None:
        return "-"
    return f"**{rate:,.0f}**" if is_fastest else f"{rate:,.0f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-"


def _table(header: Row, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["Nothing of this was run at this size."]
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
