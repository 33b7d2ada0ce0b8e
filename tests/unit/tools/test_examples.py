"""The examples' request files are what their generators make, and vary as they should."""

import json
from pathlib import Path
from typing import Any

import make_chat
import make_quickstart
import make_structured
import pytest
from pipemax_worker.job import load_job
from tiny_task import expected_answer, task_of_body
from tiny_tokenizer import CHAT_TEMPLATE, build_tokenizer


@pytest.mark.parametrize("maker", [make_quickstart, make_chat, make_structured])
def test_the_file_is_what_the_generator_makes(maker: Any) -> None:
    made = maker.to_jsonl(maker.make_requests(maker.SEED))
    assert maker.PROMPTS.read_text(encoding="utf-8") == made
    assert len(made) < 300_000


@pytest.mark.parametrize("maker", [make_quickstart, make_chat, make_structured])
def test_another_seed_makes_other_requests(maker: Any) -> None:
    assert maker.make_requests(maker.SEED + 1) != maker.make_requests(maker.SEED)


@pytest.mark.parametrize("maker", [make_quickstart, make_chat, make_structured])
def test_every_request_has_its_own_id(maker: Any) -> None:
    requests = maker.make_requests(maker.SEED)
    assert len({request["custom_id"] for request in requests}) == len(requests)


@pytest.mark.parametrize("name", ["quickstart", "chat", "structured"])
def test_the_job_file_is_valid_and_names_the_requests(root: Path, name: str) -> None:
    path = root / "manifests" / "examples" / name / "job.yaml"
    job = load_job(path)
    assert job.metadata.name == name
    assert (path.parent / job.spec.input.all_uris[0]).is_file()


def test_the_models_that_requests_name_are_the_jobs(root: Path) -> None:
    job = load_job(root / "manifests" / "examples" / "quickstart" / "job.yaml")
    requests = make_quickstart.make_requests(make_quickstart.SEED)
    named = {request["body"]["model"] for request in requests if "model" in request["body"]}
    assert named == set(job.spec.model.names)


def prompt_text(body: dict[str, Any]) -> str:
    if "prompt" in body:
        return str(body["prompt"])
    assert "'<|' + message['role'] + '|>'" in CHAT_TEMPLATE
    turns = (f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in body["messages"])
    return "".join(turns) + "<|assistant|>"


def test_the_quickstart_has_prompts_and_answers_of_very_different_lengths() -> None:
    tokenizer = build_tokenizer()
    bodies = [request["body"] for request in make_quickstart.make_requests(make_quickstart.SEED)]
    prompts = [len(tokenizer.encode(prompt_text(body)).ids) for body in bodies]
    answers = [len(tokenizer.encode(expected_answer(body)).ids) + 1 for body in bodies]
    assert len(bodies) >= 600
    assert min(prompts) <= 5
    assert max(prompts) >= 380
    assert min(answers) == 2
    assert 180 <= max(answers) <= 200
    assert 20 <= sum(answers) / len(answers) <= 30


def test_the_quickstart_asks_every_kind_of_question() -> None:
    requests = make_quickstart.make_requests(make_quickstart.SEED)
    tasks = {task_of_body(request["body"]) for request in requests}
    assert tasks == {"sort", "copy", "reverse", "find", "lookup"}
    completions = [request for request in requests if request["url"] == "/v1/completions"]
    assert all("prompt" in request["body"] for request in completions)
    assert len(completions) == make_quickstart.NUM_COMPLETIONS
    turns = [len(request["body"].get("messages", ())) for request in requests]
    assert max(turns) == 5


def test_tables_of_the_quickstart_are_shared_by_many_prompts() -> None:
    requests = make_quickstart.make_requests(make_quickstart.SEED)
    systems = [
        message["content"]
        for request in requests
        for message in request["body"].get("messages", ())
        if message["role"] == "system"
    ]
    assert len(systems) == 18 * len(set(systems))


def test_the_chat_example_varies_in_turns_systems_and_lengths() -> None:
    bodies = [request["body"] for request in make_chat.make_requests(make_chat.SEED)]
    assert len(bodies) == 300
    assert {body["max_tokens"] for body in bodies} == set(make_chat.MAX_TOKENS)
    roles = {"".join(message["role"][0] for message in body["messages"]) for body in bodies}
    assert {"u", "su", "uauau", "suauauau"} <= roles
    lengths = [len(json.dumps(body["messages"])) for body in bodies]
    assert max(lengths) > 15 * min(lengths)
