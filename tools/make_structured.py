"""Make the requests of the example ``structured``: 200 questions, each bound to a JSON schema.

    python tools/make_structured.py   # rewrites manifests/examples/structured/prompts.jsonl

Ten schemas, twenty questions each: half of them greedy, half of them sampled, some with other
parameters that must get along with a schema. The same seed always makes the same file.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from structured_schemas import QUESTIONS, SCHEMAS

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "manifests" / "examples" / "structured" / "prompts.jsonl"
SEED = 20261122
NUM_REQUESTS = 200
MAX_TOKENS = 400

PARAMETERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0, "frequency_penalty": 0.3},
    {"temperature": 1.0, "top_k": 40},
)


def make_requests(seed: int) -> list[dict[str, Any]]:
    random_source = random.Random(seed)
    requests = [
        request_for(name, subject, parameters)
        for name, (_, subjects) in QUESTIONS.items()
        for subject in subjects
        for parameters in PARAMETERS
    ]
    random_source.shuffle(requests)
    return [
        {"custom_id": f"structured-{number:03}"} | request
        for number, request in enumerate(requests, start=1)
    ]


def request_for(name: str, subject: str, parameters: dict[str, Any]) -> dict[str, Any]:
    question = QUESTIONS[name][0].format(subject)
    schema = {"name": name, "strict": True, "schema": SCHEMAS[name]}
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": MAX_TOKENS,
        "seed": 1,
        **parameters,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    return {"method": "POST", "url": "/v1/chat/completions", "body": body}


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
