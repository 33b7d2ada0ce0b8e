"""Check the tiny model's answers: is every one right, and is every request answered once?

    python tools/check_answers.py out/quickstart manifests/examples/quickstart/prompts.jsonl

The first argument is a job's output folder (its ``results/*.jsonl`` are read) or one JSONL file of
OpenAI Batch records. The right answers are recomputed from the requests. Prints right/total by
task; a request without a record, with an error or with two records counts as wrong. Exits with 1
where fewer than 99 % are right or a record belongs to no request.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_task import is_right, task_of_body

GOAL = 0.99

Record = dict[str, Any]


@dataclass
class Tally:
    """What was found. ``wrong`` lists what is not right as (custom_id, why)."""

    right: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    num_unknown: int = 0

    @property
    def share_right(self) -> float:
        return self.right.total() / max(1, self.total.total())

    @property
    def passes(self) -> bool:
        return self.total.total() > 0 and self.share_right >= GOAL and self.num_unknown == 0


def read_jsonl(path: Path) -> Iterator[Record]:
    """The objects of a JSONL file; empty lines are passed over."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def read_records(place: Path) -> Iterator[Record]:
    """The records of a job's output folder, or of one file."""
    if place.is_file():
        yield from read_jsonl(place)
        return
    folder = place / "results" if (place / "results").is_dir() else place
    for path in sorted(folder.glob("*.jsonl")):
        yield from read_jsonl(path)


def text_of_record(record: Record) -> str | None:
    """The first choice's text, or None where the record holds an error."""
    response = record.get("response")
    if record.get("error") or not response or response["status_code"] != 200:
        return None
    choice = response["body"]["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def judge(body: dict[str, Any], records: list[Record]) -> str | None:
    """Why the records of one request are not its right answer, or None if they are."""
    if len(records) != 1:
        return f"{len(records)} records"
    text = text_of_record(records[0])
    if text is None:
        return f"error: {records[0].get('error') or records[0].get('response')}"
    return None if is_right(body, text) else f"wrong answer: {text!r}"


def check(requests: list[Record], records: Iterator[Record]) -> Tally:
    """Hold every request against the records with its ``custom_id``."""
    by_id: dict[str, list[Record]] = {request["custom_id"]: [] for request in requests}
    tally = Tally()
    for record in records:
        if record["custom_id"] in by_id:
            by_id[record["custom_id"]].append(record)
        else:
            tally.num_unknown += 1
    for request in requests:
        task = task_of_body(request["body"])
        tally.total[task] += 1
        reason = judge(request["body"], by_id[request["custom_id"]])
        if reason is None:
            tally.right[task] += 1
        else:
            tally.wrong.append((request["custom_id"], reason))
    return tally


def report(tally: Tally, num_shown: int) -> str:
    """The tally for people."""
    lines = [f"{task:8} {tally.right[task]:5}/{tally.total[task]}" for task in sorted(tally.total)]
    lines.append(
        f"{'all':8} {tally.right.total():5}/{tally.total.total()}  "
        f"{100 * tally.share_right:.2f} % right"
    )
    if tally.num_unknown:
        lines.append(f"{tally.num_unknown} records belong to no request")
    lines += [f"  {custom_id}: {reason[:200]}" for custom_id, reason in tally.wrong[:num_shown]]
    if len(tally.wrong) > num_shown:
        lines.append(f"  ... and {len(tally.wrong) - num_shown} more")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("results", type=Path, help="a job's output folder, or a JSONL file")
    parser.add_argument("input", type=Path, help="the JSONL file of requests")
    parser.add_argument("--show", type=int, default=10, help="wrong answers to print")
    options = parser.parse_args(arguments)
    tally = check(list(read_jsonl(options.input)), read_records(options.results))
    print(report(tally, options.show))
    return 0 if tally.passes else 1


if __name__ == "__main__":
    raise SystemExit(main())
