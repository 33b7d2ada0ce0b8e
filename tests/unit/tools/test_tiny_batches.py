"""Training batches hold the questions of ``tiny_task`` with their right answers, as tokens."""

import pytest
import tiny_tokenizer
import torch
from tiny_batches import FORMS, MIN_ROWS, SEQUENCE_LENGTHS, Batch, QuestionMaker, Segment, join
from tiny_task import LIST_TASKS, is_right
from tiny_tokenizer import ASSISTANT_ID, END_ID, PAD_ID, SYSTEM_ID, USER_ID, build_tokenizer

TOKENIZER = build_tokenizer()
CPU = torch.device("cpu")


def test_join_lays_prefixes_end_to_end() -> None:
    first = Segment(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([3, 1]))
    second = Segment(torch.tensor([[7, 8], [7, 8]]), torch.tensor([1, 2]), is_answer=True)
    tokens, is_answer = join([first, second], 5)
    assert tokens.tolist() == [[1, 2, 3, 7, PAD_ID], [4, 7, 8, PAD_ID, PAD_ID]]
    assert is_answer.int().tolist() == [[0, 0, 0, 1, 0], [0, 1, 1, 0, 0]]


def last_turn(row: list[int], is_answer: list[bool]) -> tuple[list[int], list[int]]:
    """The tokens before the last answer, and the answer with its end token."""
    row = row[: len(row) - row[::-1].index(END_ID)]
    begin = len(row) - 1
    while is_answer[begin - 1]:
        begin -= 1
    return row[:begin], row[begin:]


def body_of_prompt(prompt: list[int]) -> dict[str, object]:
    if prompt[-1] != ASSISTANT_ID:
        return {"prompt": TOKENIZER.decode(prompt)}
    user = len(prompt) - 1 - prompt[::-1].index(USER_ID)
    messages = [{"role": "user", "content": TOKENIZER.decode(prompt[user + 1 : -2])}]
    if prompt[0] == SYSTEM_ID:
        table = TOKENIZER.decode(prompt[1 : prompt.index(END_ID)])
        messages.insert(0, {"role": "system", "content": table})
    return {"messages": messages}


@pytest.fixture(params=SEQUENCE_LENGTHS)
def batch(request: pytest.FixtureRequest) -> Batch:
    return QuestionMaker(CPU, seed=3).batch(96, request.param)


def test_every_row_is_a_question_with_its_right_answer(batch: Batch) -> None:
    for row, is_answer in zip(batch.tokens.tolist(), batch.is_answer.tolist(), strict=True):
        prompt, answer = last_turn(row, is_answer)
        assert answer[-1] == END_ID
        assert is_right(body_of_prompt(prompt), TOKENIZER.decode(answer[:-1]))


def test_all_forms_occur_and_are_marked(batch: Batch) -> None:
    assert set(batch.forms.tolist()) == set(range(len(FORMS)))
    for row, form in zip(batch.tokens, batch.forms.tolist(), strict=True):
        num_turns = int((row == USER_ID).sum())
        if FORMS[form] == "completion":
            assert num_turns == 0
        elif FORMS[form] == "conversation":
            assert num_turns in (2, 3)
        elif FORMS[form] in LIST_TASKS:
            assert row[:2].tolist() == [USER_ID, tiny_tokenizer.word_id(f"{FORMS[form]}:")]
        else:
            assert row[0] == SYSTEM_ID


def test_the_longest_questions_fill_the_longest_sequences() -> None:
    made = QuestionMaker(CPU, seed=4).batch(2000, SEQUENCE_LENGTHS[-1])
    used = (made.tokens != PAD_ID).sum(1)
    assert 430 < int(used.max()) <= SEQUENCE_LENGTHS[-1]


def test_the_same_seed_makes_the_same_batch() -> None:
    torch.manual_seed(0)
    first = QuestionMaker(CPU, seed=5).batch(32, 64)
    torch.manual_seed(0)
    second = QuestionMaker(CPU, seed=5).batch(32, 64)
    assert torch.equal(first.tokens, second.tokens)
    assert not torch.equal(first.tokens, QuestionMaker(CPU, seed=6).batch(32, 64).tokens)


def test_a_batch_too_small_for_all_forms_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 24"):
        QuestionMaker(CPU, seed=5).batch(MIN_ROWS - 1, 64)
    assert set(QuestionMaker(CPU, seed=5).batch(MIN_ROWS, 64).forms.tolist()) == set(
        range(len(FORMS))
    )
