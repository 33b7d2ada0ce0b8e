"""The checker finds wrong, missing, doubled and foreign answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from check_answers import check, main, read_records, report, text_of_record


def request(number: int) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": f"sort: {number + 1} {number}"}]}
    return {"custom_id": f"r{number}", "url": "/v1/chat/completions", "body": body}


def record(number: int, text: str | None = None) -> dict[str, Any]:
    content = f"{number} {number + 1}" if text is None else text
    body = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    return {
        "custom_id": f"r{number}",
        "response": {"status_code": 200, "body": body},
        "error": None,
    }


REQUESTS = [request(number) for number in range(3)]


def test_all_right() -> None:
    tally = check(REQUESTS, iter([record(2), record(0), record(1)]))
    assert tally.passes
    assert tally.right == {"sort": 3}
    assert "3/3  100.00 % right" in report(tally, 10)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([record(0), record(1), record(2, "9 9")], "wrong answer: '9 9'"),
        ([record(0), record(1)], "0 records"),
        ([record(0), record(1), record(2), record(2)], "2 records"),
        (
            [record(0), record(1), {"custom_id": "r2", "response": None, "error": {"code": "x"}}],
            "error: {'code': 'x'}",
        ),
    ],
)
def test_what_is_not_one_right_answer(records: list[dict[str, Any]], reason: str) -> None:
    tally = check(REQUESTS, iter(records))
    assert tally.wrong == [("r2", reason)]
    assert tally.right == {"sort": 2}
    assert not tally.passes


def test_a_record_of_no_request_fails_the_check() -> None:
    tally = check(REQUESTS[:1], iter([record(0), record(7)]))
    assert tally.share_right == 1.0
    assert tally.num_unknown == 1
    assert not tally.passes
    assert "1 records belong to no request" in report(tally, 10)


def test_99_of_100_pass_and_98_do_not() -> None:
    requests = [request(number) for number in range(100)]
    records = [record(number) for number in range(100)]
    assert check(requests, iter([*records[:99], record(99, "1")])).passes
    assert not check(requests, iter([*records[:98], record(98, "1"), record(99, "1")])).passes


def test_no_requests_at_all_do_not_pass() -> None:
    assert not check([], iter([])).passes


def test_the_text_of_a_completion() -> None:
    body = {"choices": [{"text": " 1 2"}]}
    assert text_of_record({"response": {"status_code": 200, "body": body}}) == " 1 2"


def test_a_refused_request_has_no_text() -> None:
    assert text_of_record({"response": {"status_code": 400, "body": {}}, "error": None}) is None


def test_a_long_list_of_wrong_answers_is_cut() -> None:
    text = report(check(REQUESTS, iter([])), num_shown=1)
    assert "r0: 0 records" in text
    assert "... and 2 more" in text


def write(path: Path, values: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values) + "\n")
    return path


def test_the_results_of_an_output_folder_are_read_and_its_errors_are_not(tmp_path: Path) -> None:
    write(tmp_path / "results" / "a-0.jsonl", [record(0), record(1)])
    write(tmp_path / "results" / "a-1.jsonl", [record(2)])
    write(tmp_path / "errors" / "a-0.jsonl", [record(2)])
    assert [found["custom_id"] for found in read_records(tmp_path)] == ["r0", "r1", "r2"]


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = write(tmp_path / "in.jsonl", REQUESTS)
    right = write(tmp_path / "right.jsonl", [record(0), record(1), record(2)])
    wrong = write(tmp_path / "wrong.jsonl", [record(0), record(1)])
    assert main([str(right), str(requests)]) == 0
    assert main([str(wrong), str(requests)]) == 1
    assert "2/3" in capsys.readouterr().out
