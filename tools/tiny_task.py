"""The task of the tiny model: questions about numbers whose answers a program can check.

    sort: 52 7 13                          7 13 52           numbers below 100, all different
    copy: 250 3 99                         250 3 99          numbers below 256, all different
    reverse: 250 3 99                      99 3 250
    find: 9         (table as system)      130               one value of the table
    lookup: 9 5     (table as system)      9 130 ; 5 217     several, with their keys
    table: 5 217 ; 9 130                   the system message of the last two: keys below 128,
                                           all different, and their values of 128 to 255

Every number of a question is needed for its answer (or may be asked for), so a key or value that
the KV cache loses or swaps shows as a wrong answer. A question is a chat whose last user message
counts, or the prompt of a completion with an arrow behind it: ``sort: 52 7 13 ->``.

This module knows texts; tokens are in ``tiny_tokenizer``, training batches in ``tiny_batches``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

NUM_NUMBERS = 256
SORT_LIMIT = 100
MAX_LIST_NUMBERS = {"sort": 80, "copy": 180, "reverse": 180}
FIRST_VALUE = 128
MAX_TABLE_PAIRS = 120
MAX_LOOKUP_KEYS = 24

LIST_TASKS = ("sort", "copy", "reverse")
TABLE_TASKS = ("find", "lookup")
TASKS = LIST_TASKS + TABLE_TASKS
ARROW = " ->"

CHAT_URL = "/v1/chat/completions"
COMPLETION_URL = "/v1/completions"

Table = dict[int, int]


class NotAQuestionError(ValueError):
    """A text that is none of the questions above."""


@dataclass(frozen=True)
class Question:
    """One question: its task, its own text and the table it is asked about."""

    task: str
    text: str
    table_text: str | None = None


def solve(question: str, table: Table) -> str:
    """The right answer. Raises NotAQuestionError for an unknown task or key."""
    task, _, rest = question.partition(":")
    numbers = parse_numbers(rest)
    if task == "sort":
        return join_numbers(sorted(numbers))
    if task == "copy":
        return join_numbers(numbers)
    if task == "reverse":
        return join_numbers(numbers[::-1])
    if task in TABLE_TASKS and all(number in table for number in numbers):
        if task == "find":
            return join_numbers([table[number] for number in numbers])
        return join_pairs([(number, table[number]) for number in numbers])
    raise NotAQuestionError(f"not a question of the tiny model: {question[:80]!r}")


def join_numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def join_pairs(pairs: Iterable[tuple[int, int]]) -> str:
    return " ; ".join(f"{key} {value}" for key, value in pairs)


def parse_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        raise NotAQuestionError(f"not numbers: {text[:80]!r}") from None


def table_text(table: Table) -> str:
    """The system message that holds ``table``."""
    return f"table: {join_pairs(table.items())}"


def parse_table(text: str) -> Table:
    """The table in a system message; empty where the message holds none."""
    if not text.startswith("table:"):
        return {}
    pairs = (parse_numbers(pair) for pair in text.removeprefix("table:").split(";"))
    return {key: value for key, value in pairs}


def question_of_body(body: dict[str, Any]) -> tuple[str, Table]:
    """The question that a request's body asks, and its table."""
    if "prompt" in body:
        return str(body["prompt"]).removesuffix(ARROW), {}
    table: Table = {}
    for message in body["messages"]:
        if message["role"] == "system":
            table = parse_table(message["content"])
    return str(body["messages"][-1]["content"]), table


def task_of_body(body: dict[str, Any]) -> str:
    """The name under which answers to this body are counted."""
    question, _ = question_of_body(body)
    return question.partition(":")[0]


def expected_answer(body: dict[str, Any]) -> str:
    """The right answer to a request, recomputed from its body alone."""
    return solve(*question_of_body(body))


def is_right(body: dict[str, Any], text: str) -> bool:
    """Whether ``text`` is the answer, exactly but for space around it."""
    return text.strip() == expected_answer(body)


def random_table(random_source: random.Random, num_pairs: int) -> Table:
    keys = random_source.sample(range(FIRST_VALUE), num_pairs)
    return {key: random_source.randrange(FIRST_VALUE, NUM_NUMBERS) for key in keys}


def random_list_question(random_source: random.Random, task: str, num_numbers: int) -> Question:
    """A question of ``LIST_TASKS`` about ``num_numbers`` different numbers."""
    limit = SORT_LIMIT if task == "sort" else NUM_NUMBERS
    numbers = random_source.sample(range(limit), num_numbers)
    return Question(task, f"{task}: {join_numbers(numbers)}")


def random_table_question(
    random_source: random.Random, task: str, table: Table, num_keys: int
) -> Question:
    """A question of ``TABLE_TASKS``; ``find`` asks for one key whatever ``num_keys`` is."""
    keys = random_source.sample(list(table), 1 if task == "find" else num_keys)
    return Question(task, f"{task}: {join_numbers(keys)}", table_text(table))


def chat_messages(question: Question) -> list[dict[str, str]]:
    """The messages that ask ``question``."""
    messages = [{"role": "user", "content": question.text}]
    if question.table_text is not None:
        messages.insert(0, {"role": "system", "content": question.table_text})
    return messages
