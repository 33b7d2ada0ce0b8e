"""Puts the tables between the markers of docs/study.md; the words around them stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from planner_study import tables
from planner_study.cells import all_cells
from planner_study.many_nodes import nodes_table
from planner_study.running import Outcome


def write_tables(document: Path, outcomes: Iterable[Outcome]) -> None:
    """Raises ValueError if a marker is missing."""
    results = tables.Results(outcomes)
    parts = {
        "conditions": _conditions(results),
        "paper": tables.paper_table(results),
        "rates-bf16": tables.rates_table(results, "bf16"),
        "rates-fp8": tables.rates_table(results, "fp8"),
        "ours": tables.ours_table(results),
        "ablations": tables.ablations_table(results),
        "shares": tables.shares_table(results),
        "nodes": nodes_table(results),
    }
    text = document.read_text(encoding="utf-8")
    for name, lines in parts.items():
        text = replace_part(text, name, lines)
    document.write_text(text, encoding="utf-8")


def replace_part(text: str, name: str, lines: Sequence[str]) -> str:
    """``text`` with other lines between ``<!-- study:NAME -->`` and ``<!-- /study:NAME -->``."""
    begin, end = f"<!-- study:{name} -->\n", f"<!-- /study:{name} -->"
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the document has no part {name!r}: it lies between {begin}and {end}")
    return head + begin + "".join(f"{line}\n" for line in lines) + end + tail


def _conditions(results: tables.Results) -> list[str]:
    sizes = " or ".join(f"{size:,}" for size in results.sizes)
    return [
        f"{len(results)} of {len(all_cells())} cells were run, of {sizes} requests each: "
        f"{results.cpu_seconds / 60:.0f} minutes of CPU."
    ]
