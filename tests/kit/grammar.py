"""Grammars made without the driver's child process, random schemas, and texts that follow them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from kit.tokenizer import EOS_TOKEN
from llguidance import LLMatcher
from pipemax_worker.contract.grammar import Grammar
from pipemax_worker.prompts.grammar_process import OPTIONS
from tokenizers import Tokenizer

Schema = dict[str, Any]


def backend(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def eos_token_id(folder: Path) -> int:
    found: int = backend(folder).token_to_id(EOS_TOKEN)
    return found


def grammar_for(schema: Mapping[str, Any], end_token_ids: tuple[int, ...]) -> Grammar:
    """As the driver makes it, unchecked."""
    text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=OPTIONS)
    return Grammar(text, end_token_ids)


def faults(text: str, schema: Schema) -> list[str]:
    """What is wrong with an answer."""
    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        return [f"{error}: {text!r}"]
    return [
        f"{error.message}: {text!r}" for error in Draft202012Validator(schema).iter_errors(value)
    ]


def random_schema(generator: random.Random, depth: int = 2) -> Schema:
    """Bounded, so that any text that follows it ends; satisfiable."""
    leaves: list[Callable[[], Schema]] = [
        lambda: {"type": "boolean"},
        lambda: {"type": "null"},
        lambda: {"enum": generator.sample(["a", "b c", 1, 2.5, None, True, "\N{EURO SIGN}"], 3)},
        lambda: {"const": generator.choice(["x", 7, False])},
        lambda: _integer(generator),
        lambda: {"type": "string", "maxLength": generator.randint(0, 6)},
        lambda: {"type": "string", "pattern": generator.choice(["^[0-9]{3}$", "^(ab|c){1,3}$"])},
        lambda: {"type": "string", "format": generator.choice(["date", "uuid", "ipv4"])},
        lambda: {"type": ["null", "boolean"]},
    ]
    branches: list[Callable[[], Schema]] = [
        lambda: _object(generator, depth),
        lambda: {
            "type": "array",
            "items": random_schema(generator, depth - 1),
            "minItems": generator.randint(0, 1),
            "maxItems": generator.randint(1, 3),
        },
        lambda: {"anyOf": [random_schema(generator, depth - 1) for _ in range(2)]},
    ]
    return generator.choice(leaves + branches * 3 if depth > 0 else leaves)()


def _integer(generator: random.Random) -> Schema:
    low = generator.randint(-50, 50)
    return {"type": "integer", "minimum": low, "maximum": low + generator.randint(0, 300)}


def _object(generator: random.Random, depth: int) -> Schema:
    names = generator.sample(["name", "age", "a b", "id", "z"], generator.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: random_schema(generator, depth - 1) for name in names},
        "required": generator.sample(names, generator.randint(0, len(names))),
        "additionalProperties": False,
    }
