"""Make the requests of the quickstart: questions to the tiny model, of very different lengths.

    python tools/make_quickstart.py          # rewrites manifests/examples/quickstart/prompts.jsonl

The same seed always makes the same file. ``check_answers.py`` recomputes the right answers.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_task import (
    ARROW,
    CHAT_URL,
    COMPLETION_URL,
    LIST_TASKS,
    MAX_LIST_NUMBERS,
    MAX_LOOKUP_KEYS,
    MAX_TABLE_PAIRS,
    TABLE_TASKS,
    Question,
    chat_messages,
    random_list_question,
    random_table,
    random_table_question,
    solve,
)

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "manifests" / "examples" / "quickstart" / "prompts.jsonl"
SEED = 20260502

NUM_LIST_QUESTIONS = {"sort": 130, "copy": 90, "reverse": 110}
NUM_COMPLETIONS = 30
NUM_CONVERSATIONS = 40
# Questions that share a table share the beginning of their prompt, and so its KV.
NUM_TABLES = 12
QUESTIONS_PER_TABLE = {"find": 9, "lookup": 9}
MAX_TURN_NUMBERS = 24
MAX_COMPLETION_NUMBERS = 60
NAMES = ("tiny", "tiny-sorter", None)  # the job's name for the model, its alias, none at all

Body = dict[str, Any]


def spread(random_source: random.Random, highest: int) -> int:
    """A size from 1 to ``highest``; each doubling is as likely as the one before."""
    return min(highest, int(math.exp(random_source.uniform(0.0, math.log(highest + 1)))))


def list_bodies(random_source: random.Random) -> Iterator[Body]:
    """Questions about one list, the shortest and the longest of each task among them."""
    for task, count in NUM_LIST_QUESTIONS.items():
        highest = MAX_LIST_NUMBERS[task]
        sizes = [1, highest, *(spread(random_source, highest) for _ in range(count - 2))]
        for size in sizes:
            question = random_list_question(random_source, task, size)
            yield {"messages": chat_messages(question)}


def table_bodies(random_source: random.Random) -> Iterator[Body]:
    """Questions about a few tables, each asked about many times."""
    for position in range(1, NUM_TABLES + 1):
        table = random_table(random_source, MAX_TABLE_PAIRS * position // NUM_TABLES)
        for task in TABLE_TASKS:
            for _ in range(QUESTIONS_PER_TABLE[task]):
                num_keys = spread(random_source, min(MAX_LOOKUP_KEYS, len(table)))
                question = random_table_question(random_source, task, table, num_keys)
                yield {"messages": chat_messages(question)}


def completion_bodies(random_source: random.Random) -> Iterator[Body]:
    for _ in range(NUM_COMPLETIONS):
        question = _any_list_question(random_source, MAX_COMPLETION_NUMBERS)
        yield {"prompt": question.text + ARROW}


def conversation_bodies(random_source: random.Random) -> Iterator[Body]:
    """Chats of two or three turns; the last question is the one to answer."""
    for _ in range(NUM_CONVERSATIONS):
        messages = []
        for _ in range(random_source.randint(1, 2)):
            earlier = _any_list_question(random_source, MAX_TURN_NUMBERS)
            messages += chat_messages(earlier)
            messages.append({"role": "assistant", "content": solve(earlier.text, {})})
        yield {
            "messages": messages
            + chat_messages(_any_list_question(random_source, MAX_TURN_NUMBERS))
        }


def _any_list_question(random_source: random.Random, highest: int) -> Question:
    task = random_source.choice(LIST_TASKS)
    return random_list_question(random_source, task, spread(random_source, highest))


def make_requests(seed: int) -> list[dict[str, Any]]:
    """The lines of the file, shuffled."""
    random_source = random.Random(seed)
    bodies = [
        *list_bodies(random_source),
        *table_bodies(random_source),
        *completion_bodies(random_source),
        *conversation_bodies(random_source),
    ]
    random_source.shuffle(bodies)
    return [_request(random_source, number, body) for number, body in enumerate(bodies, start=1)]


def _request(random_source: random.Random, number: int, body: Body) -> dict[str, Any]:
    name = random_source.choice(NAMES)
    return {
        "custom_id": f"question-{number:04}",
        "method": "POST",
        "url": COMPLETION_URL if "prompt" in body else CHAT_URL,
        "body": body if name is None else {"model": name, **body},
    }


def to_jsonl(requests: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(request, ensure_ascii=False) + "\n" for request in requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, default=PROMPTS)
    arguments = parser.parse_args()
    requests = make_requests(arguments.seed)
    arguments.output.write_text(to_jsonl(requests), encoding="utf-8")
    print(f"{arguments.output}: {len(requests)} requests")


if __name__ == "__main__":
    main()
