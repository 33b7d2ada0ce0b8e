"""Simulates the study of docs/study.md, and writes its tables.

    python tools/study.py [--requests 5000] [--cells PATTERNS] [--tries N] [--tables-only]

Every cell (cards, model, lengths, system, KV type, host tier, ablation) is simulated once; its
figures lie in out/study/REQUESTS/, so that a run that was stopped goes on. ``--cells``: patterns of
names, separated by commas, for example '8x4090_Llama-2-70B_sharegpt_*_bf16_*'; see ``--list``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from planner_study.cells import all_cells, select  # noqa: E402 (the path is set above)
from planner_study.document import write_tables  # noqa: E402
from planner_study.running import Effort, Folder, Outcome, run_cells  # noqa: E402

DOCUMENT = ROOT / "docs" / "study.md"


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    cells = select(all_cells(), options.cells)
    if options.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    folder = Folder(options.out, options.requests)
    start = time.monotonic()
    if not options.tables_only:
        num_before = sum(folder.read(cell) is not None for cell in cells)
        print(f"{len(cells)} cells, {num_before} of them there already", flush=True)
        effort = Effort(options.requests, options.processes, options.tries)
        run_cells(cells, folder, effort, _say)
        print(f"{time.monotonic() - start:.0f} s")
    write_tables(options.document, folder.read_all())
    print(f"wrote the tables of {options.document}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Simulate the study and write its tables.")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--cells", default="*")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tries", type=int, help="sizes of a step a cell (default: two or three)")
    parser.add_argument("--tables-only", action="store_true")
    parser.add_argument("--list", action="store_true", help="names of the cells, and no more")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "study")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    return parser.parse_args(arguments)


def _say(outcome: Outcome) -> None:
    best = outcome.best
    told = outcome.fault
    if best is not None:
        told = f"{best.tokens_per_second:,.0f} tokens/s ({best.cpu_seconds:.0f} s of CPU)"
    print(f"{outcome.cell.name}: {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
