"""The questions of the tiny model and their right answers."""

import random

import pytest
import tiny_task
from tiny_task import (
    LIST_TASKS,
    MAX_LIST_NUMBERS,
    TABLE_TASKS,
    NotAQuestionError,
    chat_messages,
    expected_answer,
    is_right,
    parse_table,
    random_list_question,
    random_table,
    random_table_question,
    solve,
    table_text,
    task_of_body,
)


def chat(*messages: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("sort: 52 7 13", "7 13 52"),
        ("sort: 9", "9"),
        ("copy: 250 3 99", "250 3 99"),
        ("reverse: 250 3 99", "99 3 250"),
        ("find: 9", "130"),
        ("lookup: 9 5", "9 130 ; 5 217"),
    ],
)
def test_solve(question: str, answer: str) -> None:
    assert solve(question, {5: 217, 9: 130}) == answer


@pytest.mark.parametrize("question", ["add: 1 2", "sort: one two", "find: 6", "", "lookup: 5 6"])
def test_what_is_no_question_is_refused(question: str) -> None:
    with pytest.raises(NotAQuestionError):
        solve(question, {5: 217})


def test_a_table_is_read_from_its_text() -> None:
    table = {5: 217, 9: 130, 0: 255}
    assert table_text(table) == "table: 5 217 ; 9 130 ; 0 255"
    assert parse_table(table_text(table)) == table


def test_a_system_message_without_a_table_is_passed_over() -> None:
    assert parse_table("You are helpful.") == {}
    body = chat(("system", "You are helpful."), ("user", "sort: 3 2"))
    assert expected_answer(body) == "2 3"


def test_the_last_question_of_a_chat_counts() -> None:
    body = chat(("user", "sort: 3 2"), ("assistant", "2 3"), ("user", "reverse: 1 2 3"))
    assert expected_answer(body) == "3 2 1"
    assert task_of_body(body) == "reverse"


def test_a_table_comes_with_the_system_message() -> None:
    body = chat(("system", "table: 5 217 ; 9 130"), ("user", "find: 5"))
    assert expected_answer(body) == "217"


def test_a_completion_ends_with_an_arrow() -> None:
    body = {"prompt": "copy: 4 5 ->", "model": "tiny"}
    assert expected_answer(body) == "4 5"
    assert task_of_body(body) == "copy"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("2 3", True),
        (" 2 3\n", True),
        ("2  3", False),
        ("2 3 4", False),
        ("3 2", False),
        ("", False),
    ],
)
def test_an_answer_is_right_only_as_a_whole(text: str, right: bool) -> None:
    assert is_right(chat(("user", "sort: 3 2")), text) is right


@pytest.mark.parametrize("task", LIST_TASKS)
def test_random_lists_hold_different_numbers(task: str) -> None:
    size = MAX_LIST_NUMBERS[task]
    question = random_list_question(random.Random(1), task, size)
    numbers = tiny_task.parse_numbers(question.text.partition(":")[2])
    assert len(set(numbers)) == size
    assert max(numbers) < (100 if task == "sort" else 256)
    assert chat_messages(question) == [{"role": "user", "content": question.text}]


@pytest.mark.parametrize("task", TABLE_TASKS)
def test_random_table_questions_ask_for_keys_of_the_table(task: str) -> None:
    source = random.Random(2)
    table = random_table(source, 120)
    assert len(table) == 120
    assert max(table) < 128 <= min(table.values())
    question = random_table_question(source, task, table, 7)
    answer = expected_answer({"messages": chat_messages(question)})
    assert len(answer.split(";")) == (1 if task == "find" else 7)
