"""Training batches for the tiny model, made on the GPU: one call, thousands of fresh questions.

A sequence is put together from *segments*: a matrix of token ids of which each row uses a prefix.
:func:`join` lays the prefixes of a row end to end and marks which tokens the model must predict.
The texts are those of ``tiny_task`` after ``tiny_tokenizer``; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

import tiny_tokenizer as vocabulary
import torch
from tiny_task import (
    FIRST_VALUE,
    LIST_TASKS,
    MAX_LIST_NUMBERS,
    MAX_LOOKUP_KEYS,
    MAX_TABLE_PAIRS,
    NUM_NUMBERS,
    SORT_LIMIT,
    TABLE_TASKS,
)
from torch import Tensor

# Sequence lengths of the batches. The last holds the longest question with its answer.
SEQUENCE_LENGTHS = (64, 128, 256, 528)

FORMS = (*LIST_TASKS, *TABLE_TASKS, "completion", "conversation")
FORM_SHARES = {  # of the rows
    "sort": 0.14,
    "copy": 0.1,
    "reverse": 0.12,
    "find": 0.16,
    "lookup": 0.26,
    "completion": 0.08,
    "conversation": 0.14,
}
NUM_GROUPS = 4  # of a mixed form's rows, each with its own choice of tasks
MIN_ROWS = 24  # of a batch: some of each form
MAX_TURN_NUMBERS = 24


@dataclass(frozen=True)
class Segment:
    """``tokens[row, : lengths[row]]`` belongs to the sequence; ``is_answer``: to be predicted."""

    tokens: Tensor  # [num_rows, width]
    lengths: Tensor  # [num_rows]
    is_answer: bool = False


@dataclass(frozen=True)
class Batch:
    tokens: Tensor  # [num_rows, sequence_length]
    is_answer: Tensor  # [num_rows, sequence_length] bool
    forms: Tensor  # [num_rows] indices into FORMS


def join(segments: list[Segment], sequence_length: int) -> tuple[Tensor, Tensor]:
    """Lay the segments end to end; returns tokens and answer marks, padded to the length."""
    num_rows, device = len(segments[0].lengths), segments[0].tokens.device
    shape = (num_rows, sequence_length + 1)  # the last column takes what is cut off
    tokens = torch.full(shape, vocabulary.PAD_ID, device=device)
    is_answer = torch.zeros(shape, dtype=torch.bool, device=device)
    offsets = torch.zeros(num_rows, 1, dtype=torch.long, device=device)
    for segment in segments:
        lengths = segment.lengths[:, None]
        columns = torch.arange(segment.tokens.shape[1], device=device)[None]
        used = columns < lengths
        places = torch.where(used, offsets + columns, sequence_length).clamp(max=sequence_length)
        tokens.scatter_(1, places, segment.tokens)
        is_answer.scatter_(1, places, used & segment.is_answer)
        offsets = offsets + lengths
    return tokens[:, :-1], is_answer[:, :-1]


class QuestionMaker:
    """Draws questions on one device from one generator."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def batch(self, num_rows: int, sequence_length: int) -> Batch:
        """``num_rows`` questions of all forms that fit ``sequence_length`` with their answers,
        shuffled. Raises ValueError below ``MIN_ROWS``."""
        if num_rows < MIN_ROWS:
            raise ValueError(f"{num_rows} rows; a batch has at least {MIN_ROWS}")
        parts = []
        forms = torch.empty(num_rows, dtype=torch.long)
        first = 0
        for form, count in _groups(num_rows):
            parts.append(join(self._segments(form, count, sequence_length), sequence_length))
            forms[first : first + count] = FORMS.index(form)
            first += count
        tokens, is_answer = (torch.cat(column) for column in zip(*parts, strict=True))
        order = torch.randperm(num_rows, device=self.device, generator=self.generator)
        return Batch(tokens[order], is_answer[order], forms.to(self.device)[order])

    def _segments(self, form: str, num_rows: int, sequence_length: int) -> list[Segment]:
        if form in TABLE_TASKS:
            return self._table_question(form, num_rows, sequence_length)
        if form == "completion":
            return self._completion(num_rows, sequence_length)
        if form == "conversation":
            return self._conversation(num_rows, sequence_length)
        return self._turn(form, self._counts(num_rows, form, (sequence_length - 5) // 2))

    def _counts(self, num_rows: int, task: str, fitting: int) -> Tensor:
        """How many numbers each row's list has."""
        return self._integers(num_rows, 1, min(fitting, MAX_LIST_NUMBERS[task]))

    def _turn(self, task: str, counts: Tensor) -> list[Segment]:
        """A user's message about a list, and the answer."""
        question, answer = self._list_question(task, counts)
        return [
            self._fixed(counts, vocabulary.USER_ID, vocabulary.word_id(f"{task}:")),
            question,
            self._fixed(counts, vocabulary.END_ID, vocabulary.ASSISTANT_ID),
            answer,
            self._fixed(counts, vocabulary.END_ID, is_answer=True),
        ]

    def _completion(self, num_rows: int, sequence_length: int) -> list[Segment]:
        task = self._any_list_task()
        counts = self._counts(num_rows, task, (sequence_length - 3) // 2)
        question, answer = self._list_question(task, counts)
        return [
            self._fixed(counts, vocabulary.word_id(f"{task}:")),
            question,
            self._fixed(counts, vocabulary.word_id("->")),
            answer,
            self._fixed(counts, vocabulary.END_ID, is_answer=True),
        ]

    def _conversation(self, num_rows: int, sequence_length: int) -> list[Segment]:
        """Two or three turns; only the last question counts for an answer."""
        num_turns = 3 if sequence_length >= 64 and self._any_integer(2) else 2
        fitting = min(MAX_TURN_NUMBERS, (sequence_length // num_turns - 5) // 2)
        segments = []
        for _ in range(num_turns):
            task = self._any_list_task()
            segments += self._turn(task, self._counts(num_rows, task, fitting))
        return segments

    def _list_question(self, task: str, counts: Tensor) -> tuple[Segment, Segment]:
        limit = SORT_LIMIT if task == "sort" else NUM_NUMBERS
        width = int(MAX_LIST_NUMBERS[task])
        numbers = self._distinct(len(counts), limit)[:, :width]
        columns = torch.arange(width, device=self.device)[None]
        if task == "sort":
            answer = numbers.masked_fill(columns >= counts[:, None], NUM_NUMBERS).sort(1).values
            answer = answer.clamp(max=NUM_NUMBERS - 1)
        elif task == "reverse":
            answer = numbers.gather(1, (counts[:, None] - 1 - columns).clamp(min=0))
        else:
            answer = numbers
        return self._numbers(numbers, counts), self._numbers(answer, counts, is_answer=True)

    def _table_question(self, task: str, num_rows: int, sequence_length: int) -> list[Segment]:
        most_keys = 1 if task == "find" else min(MAX_LOOKUP_KEYS, (sequence_length - 6) // 7)
        num_keys = self._integers(num_rows, 1, most_keys)
        most_pairs = ((sequence_length - 6 - 4 * num_keys) // 3).clamp(max=MAX_TABLE_PAIRS)
        num_pairs = num_keys + self._up_to(most_pairs - num_keys)
        keys = self._distinct(num_rows, FIRST_VALUE)[:, :MAX_TABLE_PAIRS]
        values = self._integers(keys.numel(), FIRST_VALUE, NUM_NUMBERS - 1).view_as(keys)
        order = self._some_columns(num_pairs)[:, :MAX_LOOKUP_KEYS]
        asked_keys, asked_values = keys.gather(1, order), values.gather(1, order)
        if task == "find":
            answer = self._numbers(asked_values, num_keys, is_answer=True)
        else:
            answer = self._pairs(asked_keys, asked_values, num_keys, is_answer=True)
        return [
            self._fixed(num_keys, vocabulary.SYSTEM_ID, vocabulary.word_id("table:")),
            self._pairs(keys, values, num_pairs),
            self._fixed(
                num_keys, vocabulary.END_ID, vocabulary.USER_ID, vocabulary.word_id(f"{task}:")
            ),
            self._numbers(asked_keys, num_keys),
            self._fixed(num_keys, vocabulary.END_ID, vocabulary.ASSISTANT_ID),
            answer,
            self._fixed(num_keys, vocabulary.END_ID, is_answer=True),
        ]

    def _some_columns(self, num_columns: Tensor) -> Tensor:
        """Each row's columns below ``num_columns[row]`` in random order, the others behind."""
        scores = torch.rand(
            len(num_columns), MAX_TABLE_PAIRS, device=self.device, generator=self.generator
        )
        columns = torch.arange(MAX_TABLE_PAIRS, device=self.device)[None]
        return (scores + 2.0 * (columns >= num_columns[:, None])).argsort(1)

    def _pairs(
        self, keys: Tensor, values: Tensor, counts: Tensor, is_answer: bool = False
    ) -> Segment:
        """``key value ; key value``: three tokens a pair, no semicolon behind the last."""
        tokens = torch.stack(
            [
                keys + vocabulary.FIRST_NUMBER_ID,
                values + vocabulary.FIRST_NUMBER_ID,
                torch.full_like(keys, vocabulary.word_id(";")),
            ],
            dim=2,
        )
        return Segment(tokens.flatten(1), 3 * counts - 1, is_answer)

    def _numbers(self, numbers: Tensor, counts: Tensor, is_answer: bool = False) -> Segment:
        return Segment(numbers + vocabulary.FIRST_NUMBER_ID, counts, is_answer)

    def _fixed(self, counts: Tensor, *tokens: int, is_answer: bool = False) -> Segment:
        row = torch.tensor(tokens, device=self.device).expand(len(counts), -1)
        return Segment(row, torch.full_like(counts, len(tokens)), is_answer)

    def _distinct(self, num_rows: int, limit: int) -> Tensor:
        """A permutation of 0..limit-1 in each row."""
        scores = torch.rand(num_rows, limit, device=self.device, generator=self.generator)
        return scores.argsort(1)

    def _integers(self, count: int, low: int, high: int) -> Tensor:
        shape = (count,)
        return torch.randint(low, high + 1, shape, device=self.device, generator=self.generator)

    def _up_to(self, highest: Tensor) -> Tensor:
        """For each row an integer from 0 to ``highest[row]``, both possible."""
        share = torch.rand(highest.shape, device=self.device, generator=self.generator)
        return (share * (highest + 1)).long().clamp(max=highest)

    def _any_integer(self, limit: int) -> int:
        return int(torch.randint(limit, (1,)))

    def _any_list_task(self) -> str:
        return LIST_TASKS[self._any_integer(len(LIST_TASKS))]


def _groups(num_rows: int) -> list[tuple[str, int]]:
    """(form, rows) of the parts of a batch; the last takes what rounding leaves."""
    counts = [
        (form, max(1, int(num_rows * share / num_groups)))
        for form, share in FORM_SHARES.items()
        for num_groups in [NUM_GROUPS if form in ("completion", "conversation") else 1]
        for _ in range(num_groups)
    ]
    form, count = counts[-1]
    return [*counts[:-1], (form, count + num_rows - sum(count for _, count in counts))]
