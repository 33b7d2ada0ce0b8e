"""Folders with everything that a job needs, and what came of it. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kit.batch_lines import line_of
from kit.tokenizer import build_tokenizer_folder
from pipemax_worker.cli.main import main

VOCAB_SIZE = 512
"""Of models for these jobs: more than the tokenizer has, as in many a real model."""

CONTEXT_TOKENS = 256

MODEL_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
    "eos_token_id": None,
}


def write_hollow_model(folder: Path) -> Path:
    """A model folder that the driver is content with: its weights are empty."""
    build_tokenizer_folder(folder)
    (folder / "config.json").write_text(json.dumps(MODEL_CONFIG), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def text_line(custom_id: str, prompt: str = "Hello world", **body: Any) -> bytes:
    return line_of({"prompt": prompt, **body}, custom_id=custom_id)


def chat_line(custom_id: str, content: str = "How are you today?", **body: Any) -> bytes:
    return line_of(
        {"messages": [{"role": "user", "content": content}], **body}, custom_id=custom_id
    )


def text_lines(number: int, prefix: str = "r", **body: Any) -> list[bytes]:
    """Completions with prompts of different lengths."""
    prompts = ("Sort the numbers", "Hello world! How are you", "stop", "The answer is 1, 2, 3, ")
    return [
        text_line(f"{prefix}{index}", prompts[index % 4] * (1 + index % 5), **body)
        for index in range(number)
    ]


@dataclass(frozen=True)
class JobFolder:
    """``job.yaml`` with an output ``out`` beside it; input files are written with ``write_input``.

    The defaults are greedy and short, with tiers that take a moment to allocate.
    """

    folder: Path
    model_folder: Path

    @property
    def job_file(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write_input(self, lines: Sequence[bytes], name: str = "in.jsonl") -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    def write(self, changes: Mapping[str, Any] | None = None) -> Path:
        """Write the job file; ``changes`` maps dotted fields of the spec to values."""
        spec: dict[str, Any] = {
            "model": {"uri": str(self.model_folder), "name": "tiny"},
            "input": {"uri": "*.jsonl"},
            "output": {"uri": "out"},
            "sampling": {"temperature": 0, "maxTokens": 8},
            "engine": {"device": "cpu", "deviceKvCache": "8Mi"},
            "kvCache": {"host": "16Mi"},
        }
        for field, value in (changes or {}).items():
            *sections, name = field.split(".")
            section = spec
            for one in sections:
                section = section.setdefault(one, {})
            section[name] = value
        job = {
            "apiVersion": "pipemax.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": "reviews"},
            "spec": spec,
        }
        self.job_file.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
        return self.job_file

    def run(self, *arguments: str) -> int:
        """`pipemax run` in this process; the exit code."""
        return main(["run", str(self.job_file), *arguments])

    def records(self) -> list[dict[str, Any]]:
        """All records in the output, segment by segment."""
        return [
            json.loads(line)
            for path in sorted((self.output / "results").glob("*.jsonl"))
            for line in path.read_bytes().splitlines()
        ]

    def by_id(self) -> dict[str, dict[str, Any]]:
        """Records by ``custom_id``; no two may have the same."""
        records = self.records()
        found = {record["custom_id"]: record for record in records}
        assert len(found) == len(records), "an id has two records"
        return found


def answer_text(record: Mapping[str, Any], choice: int = 0) -> str:
    """The text of one choice; the record must not be an error's."""
    assert record["error"] is None, record["error"]
    found = record["response"]["body"]["choices"][choice]
    text: str = found["message"]["content"] if "message" in found else found["text"]
    return text


def error_code(record: Mapping[str, Any]) -> str | None:
    return record["error"] and record["error"]["code"]
