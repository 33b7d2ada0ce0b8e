"""One job with everything that a request can ask for, on two stages: are the records right?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kit.jobs import CONTEXT_TOKENS, JobFolder, answer_text, chat_line, text_line, text_lines
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pipemax_worker.prompts.tokenizer import load_tokenizer

FILES: dict[str, list[bytes]] = {
    "1.jsonl": [
        *text_lines(12, "text-"),
        *(chat_line(f"chat-{index}", "Hello " * index + "you") for index in range(1, 6)),
    ],
    "2.jsonl": [
        text_line("three", n=3, temperature=1.0, seed=7),
        text_line("three-again", n=3, temperature=1.0, seed=7),
        text_line("logprobs", logprobs=2),
        chat_line("chat-logprobs", logprobs=True, top_logprobs=3),
        text_line("one-token", max_tokens=1),
        chat_line("system", metadata={"any": "thing"}, user="me", stream=False),
    ],
    "nested/3.jsonl": [text_line("long", "word " * 40, max_tokens=CONTEXT_TOKENS - 100)],
}
SPEC: dict[str, Any] = {
    "input": {"uris": ["1.jsonl", "2.jsonl", "nested/*.jsonl"]},
    "engine.blockTokens": 4,
    "engine.maxBatchedTokens": 48,
    "parallelism.stagesPerNode": 2,
}


def run_job(folder: Path, model_folder: Path, changes: dict[str, Any]) -> JobFolder:
    folder.mkdir()
    job = JobFolder(folder, model_folder)
    (job.folder / "nested").mkdir()
    for name, lines in FILES.items():
        job.write_input(lines, name)
    job.write(SPEC | changes)
    assert job.run("--quiet") == 0
    return job


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> JobFolder:
    return run_job(tmp_path_factory.mktemp("done") / "job", model_folder, {})


def test_every_line_of_every_file_has_one_record(done: JobFolder) -> None:
    keys = [(r["pipemax"]["file"], r["pipemax"]["offset"]) for r in done.records()]
    expected = [
        (name, sum(len(line) + 1 for line in lines[:index]))
        for name, lines in FILES.items()
        for index in range(len(lines))
    ]
    assert sorted(keys) == sorted(expected)
    assert not [record for record in done.records() if record["error"]]


def test_records_are_of_openais_types(done: JobFolder) -> None:
    for record in done.records():
        body = record["response"]["body"]
        kind = ChatCompletion if body["object"] == "chat.completion" else Completion
        parsed = kind.model_validate(body, strict=True)
        assert parsed.model == "tiny"
        assert record["response"]["status_code"] == 200


def test_usage_and_finish_reason_are_right(done: JobFolder) -> None:
    tokenizer = load_tokenizer(done.model_folder)
    for lines in FILES.values():
        for line in map(json.loads, lines):
            body = done.by_id()[line["custom_id"]]["response"]["body"]
            usage = body["usage"]
            if "prompt" in line["body"]:
                assert usage["prompt_tokens"] == len(tokenizer.encode(line["body"]["prompt"]))
            limit = line["body"].get("max_tokens", 8)
            reasons = [choice["finish_reason"] for choice in body["choices"]]
            if set(reasons) == {"length"}:
                assert usage["completion_tokens"] == limit * len(reasons)
            assert set(reasons) <= {"length", "stop"}
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_three_choices(done: JobFolder) -> None:
    choices = done.by_id()["three"]["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({choice["text"] for choice in choices}) == 3
    again = done.by_id()["three-again"]["response"]["body"]["choices"]
    assert again == choices, "the same seed gives the same texts"


def test_logprobs_of_a_completion(done: JobFolder) -> None:
    choice = done.by_id()["logprobs"]["response"]["body"]["choices"][0]
    found = choice["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["top_logprobs"]) == 8
    for logprob, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
        assert logprob == pytest.approx(max(top.values())), "greedy takes the best"


def test_logprobs_of_a_chat(done: JobFolder) -> None:
    choice = done.by_id()["chat-logprobs"]["response"]["body"]["choices"][0]
    content = choice["logprobs"]["content"]
    assert 1 <= len(content) <= 8
    for token in content:
        assert len(token["top_logprobs"]) == 3
        assert token["token"] == token["top_logprobs"][0]["token"]
    assert (
        b"".join(bytes(token["bytes"]) for token in content).decode(errors="replace")
        == (choice["message"]["content"])
    )


def test_the_manifest_counts_what_is_there(done: JobFolder) -> None:
    manifest = json.loads((done.output / "manifest.json").read_text())
    assert manifest["counts"]["completed"] == len(done.records())
    generated = sum(r["response"]["body"]["usage"]["completion_tokens"] for r in done.records())
    assert manifest["counts"]["completion_tokens"] == generated
    assert [file["name"] for file in manifest["inputs"]] == sorted(FILES)


@pytest.mark.parametrize(
    "changes",
    [
        {"parallelism.stagesPerNode": 1, "engine.blockTokens": 16, "kvCache.host": 0},
        {
            "parallelism.stagesPerNode": 4,
            "engine.microBatches": 6,
            "engine.deviceKvCache": "344Ki",  # 84 blocks: the longest request and a little more
            "kvCache": {"host": "4Mi", "nvme": {"emptyDir": {}, "size": "8Mi"}},
            "engine.prefixSharing": False,
        },
    ],
    ids=["one stage", "four stages, tight tiers"],
)
def test_texts_do_not_depend_on_stages_and_tiers(
    done: JobFolder, tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = run_job(tmp_path / "other", done.model_folder, changes)
    expected = {name: texts(record) for name, record in done.by_id().items()}
    assert {name: texts(record) for name, record in other.by_id().items()} == expected


def texts(record: dict[str, Any]) -> list[str]:
    count = len(record["response"]["body"]["choices"])
    return [answer_text(record, choice) for choice in range(count)]


def test_a_text_ends_before_its_stop_string(done: JobFolder, tmp_path: Path) -> None:
    """The stop strings are taken from the texts that came without them."""
    ids = [f"text-{index}" for index in range(12)]
    full = {name: answer_text(done.by_id()[name]) for name in ids}
    lines, expected = list[bytes](), dict[str, str]()
    for line in map(json.loads, FILES["1.jsonl"][:12]):
        text = full[line["custom_id"]]
        stop = text[len(text) // 2 :][:3]
        if not stop.strip("\N{REPLACEMENT CHARACTER}"):
            continue  # half a character: no string that a user could give
        line["body"]["stop"] = [stop, "never there"]
        lines.append(json.dumps(line).encode())
        expected[line["custom_id"]] = text[: text.index(stop)]
    assert len(expected) > 6
    job = JobFolder(tmp_path, done.model_folder)
    job.write_input(lines)
    job.write({"parallelism.stagesPerNode": 2})
    assert job.run("--quiet") == 0
    assert {name: answer_text(record) for name, record in job.by_id().items()} == expected
    for record in job.records():
        assert record["response"]["body"]["choices"][0]["finish_reason"] == "stop"


def test_the_same_command_again_has_nothing_to_do(
    done: JobFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in done.output.rglob("*") if path.is_file()}
    assert done.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in done.output.rglob("*") if path.is_file()} == before


def test_a_changed_parameter_is_refused(
    done: JobFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    done.write(SPEC | {"sampling": {"temperature": 0.5, "maxTokens": 8}})
    try:
        assert done.run() == 78
    finally:
        done.write(SPEC)
    assert "parameters.sampling.temperature: was 0.0, is 0.5" in capsys.readouterr().err
