"""Requests that are bound to a grammar, through the sampler: only what may follow is sampled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.devices import DEVICES
from kit.grammar import backend, eos_token_id, faults, grammar_for, random_schema
from kit.tokenizer import build_tokenizer_folder
from pipemax_worker.contract.grammar import Grammar
from pipemax_worker.contract.messages import NewRequest
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.sampler import Sampler

VOCAB_SIZE = 512  # more than either tokenizer has
MAX_TOKENS = 400
CPU = torch.device("cpu")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Lyon"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["city", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="session", params=["byte_level", "metaspace"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tokenizer_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tokenizer_folder(tmp_path_factory.mktemp("bytes"))


class Generation:
    """A sampler, and "a model" whose logits depend on the request and the position alone."""

    def __init__(self, folder: Path, device: torch.device = CPU) -> None:
        self.folder = folder
        self.eos = eos_token_id(folder)
        self.sampler = Sampler(VOCAB_SIZE, device, folder / "tokenizer.json")
        self.device = device
        self.outputs: dict[int, list[int]] = {}
        self.errors: dict[int, str | None] = {}

    def grammar(self, schema: dict[str, Any]) -> Grammar:
        return grammar_for(schema, (self.eos,))

    def add(
        self, request_id: int, grammar: Grammar | None, output: tuple[int, ...] = (), **params: Any
    ) -> None:
        stops = params.pop("stop_token_ids", (self.eos,))
        sampling = SamplingParams(MAX_TOKENS, grammar=grammar, stop_token_ids=stops, **params)
        prompt, known = pack_int32([1, 2, request_id]), pack_int32(output)
        self.sampler.add(NewRequest(request_id, prompt, known, sampling, seed=request_id))
        self.outputs[request_id] = list(output)

    def logits(self, request_id: int) -> torch.Tensor:
        position = len(self.outputs[request_id])
        source = torch.Generator().manual_seed(request_id * 1000 + position)
        return torch.randn(VOCAB_SIZE, generator=source) * 3

    def step(self, *request_ids: int) -> list[int]:
        logits = torch.stack([self.logits(one) for one in request_ids]).to(self.device)
        sampled = self.sampler.sample(request_ids, logits)
        for token in sampled:
            self.outputs[token.request_id].append(token.token_id)
            self.errors[token.request_id] = token.error
        return [token.token_id for token in sampled]

    def run(self, request_id: int) -> list[int]:
        """Until the end token, which is not in the result."""
        while self.step(request_id) != [self.eos]:
            assert self.errors[request_id] is None
            assert len(self.outputs[request_id]) < MAX_TOKENS, self.text(request_id)
        return self.outputs[request_id][:-1]

    def text(self, request_id: int) -> str:
        text: str = backend(self.folder).decode(self.outputs[request_id])
        return text


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9}])
def test_a_text_follows_its_schema_and_then_ends(folder: Path, params: dict[str, Any]) -> None:
    generation = Generation(folder)
    for request_id in range(6):
        generation.add(request_id, generation.grammar(SCHEMA), **params)
        generation.run(request_id)
        assert not faults(generation.text(request_id), SCHEMA)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_bounded_schema_is_followed(folder: Path, seed: int) -> None:
    schema = random_schema(random.Random(seed))
    generation = Generation(folder)
    generation.add(seed, generation.grammar(schema), temperature=1.0 if seed % 2 else 0.0)
    generation.run(seed)
    assert not faults(generation.text(seed), schema)


MIXED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "frequency_penalty": 1.5, "presence_penalty": 1.0},
    {"temperature": 1.0, "top_k": 3},
    {"temperature": 1.3, "min_p": 0.2, "repetition_penalty": 1.4},
    {"temperature": 0.7, "logit_bias": dict.fromkeys(range(0, 300), -100.0)},
    {"temperature": 1.0, "min_tokens": 60},
    {"temperature": 0.0, "logprobs": 2, "logit_bias": {400: 100.0, 70: 100.0}},
]


def test_every_parameter_gets_along_with_a_grammar(byte_level: Path) -> None:
    generation = Generation(byte_level)
    for request_id, params in enumerate(MIXED):
        generation.add(request_id, generation.grammar(SCHEMA), **params)
        generation.run(request_id)
        assert not faults(generation.text(request_id), SCHEMA)


def test_tokens_do_not_depend_on_the_batch_or_on_others_grammars(byte_level: Path) -> None:
    """Bound and free requests in random batches: each gets what it gets alone."""
    alone, together, shuffle = Generation(byte_level), Generation(byte_level), random.Random(1)
    for request_id in range(12):
        for generation in (alone, together):
            grammar = generation.grammar(SCHEMA) if request_id % 3 else None
            generation.add(request_id, grammar, **MIXED[request_id % len(MIXED)])
        for _ in range(25):
            alone.step(request_id)
    while unfinished := [i for i, output in together.outputs.items() if len(output) < 25]:
        together.step(*shuffle.sample(unfinished, shuffle.randint(1, len(unfinished))))
    assert together.outputs == alone.outputs


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_every_device_masks_alike(byte_level: Path, device: torch.device) -> None:
    here, there = Generation(byte_level), Generation(byte_level, device)
    for generation in (here, there):
        for request_id, params in enumerate(MIXED):
            grammar = generation.grammar(SCHEMA) if request_id != 2 else None
            generation.add(request_id, grammar, **params)
        for _ in range(12):
            generation.step(*range(len(MIXED)))
    assert here.outputs == there.outputs


def test_a_request_that_comes_back_goes_on_where_it_was(byte_level: Path) -> None:
    """Under its old id in the same sampler, and in another one, at every position."""
    whole = Generation(byte_level)
    whole.add(3, whole.grammar(SCHEMA), temperature=1.0)
    tokens = whole.run(3)
    again = Generation(byte_level)
    for position in range(len(tokens) + 1):
        again.add(3, again.grammar(SCHEMA), tuple(tokens[:position]), temperature=1.0)
        assert again.run(3) == tokens


def test_requests_may_leave_while_their_masks_are_computed(byte_level: Path) -> None:
    generation = Generation(byte_level)
    for request_id in range(40):
        generation.add(request_id, generation.grammar(SCHEMA), temperature=1.0)
        if request_id % 2:
            generation.step(request_id)
        generation.sampler.remove(request_id)
    generation.add(7, generation.grammar(SCHEMA), temperature=1.0)
    generation.run(7)
    assert not faults(generation.text(7), SCHEMA)


def test_an_id_may_come_back_without_its_grammar(byte_level: Path) -> None:
    generation = Generation(byte_level)
    generation.add(5, generation.grammar(SCHEMA), temperature=0.0)
    generation.add(5, None, temperature=0.0)
    best = int(generation.logits(5).argmax())
    assert generation.step(5) == [best]


def test_sampling_on_after_the_end_is_harmless(byte_level: Path) -> None:
    """The engine may have run ahead: a row after the end token is on its way already."""
    generation = Generation(byte_level)
    generation.add(1, generation.grammar({"const": 1}), temperature=0.0)
    generation.run(1)
    for _ in range(3):
        generation.step(1)
        assert generation.errors[1] is None


def test_the_end_is_allowed_only_where_the_text_is_complete(byte_level: Path) -> None:
    """The end token is all that the model wants, and 12 may be 120."""
    generation = Generation(byte_level)
    bias = {generation.eos: 100.0}
    generation.add(1, generation.grammar({"const": "ab"}), temperature=0.0, logit_bias=bias)
    generation.run(1)
    assert generation.text(1) == '"ab"'
    number = {"type": "integer", "minimum": 12, "maximum": 129}
    generation.add(2, generation.grammar(number), temperature=0.0, logit_bias=bias)
    generation.run(2)
    assert len(generation.text(2)) == 2


def test_min_tokens_hold_off_the_end_while_the_text_can_go_on(byte_level: Path) -> None:
    generation = Generation(byte_level)
    schema = {"type": "array", "items": {"const": 1}, "maxItems": 4}
    bias = {generation.eos: 100.0, **dict.fromkeys(backend(byte_level).encode("]").ids, 50.0)}
    generation.add(1, generation.grammar(schema), temperature=0.0, logit_bias=bias, min_tokens=50)
    assert len(generation.run(1)) < 50, "where only the end is left, the grammar wins"
    assert not faults(generation.text(1), schema)
    number = {"type": "integer", "minimum": 1, "maximum": 999}
    generation.add(2, generation.grammar(number), temperature=0.0, min_tokens=3, logit_bias=bias)
    generation.run(2)
    assert len(generation.text(2)) == 3


def test_a_users_stop_token_is_text_to_the_grammar(byte_level: Path) -> None:
    """It may come where the schema has it, and the driver ends the text there."""
    generation = Generation(byte_level)
    (brace,) = backend(byte_level).encode("{").ids
    stops = (generation.eos, brace)
    generation.add(1, generation.grammar(SCHEMA), temperature=0.0, stop_token_ids=stops)
    assert generation.step(1) == [brace]
    assert generation.step(1) != [generation.eos]


def test_logprobs_are_those_of_the_raw_logits(byte_level: Path) -> None:
    generation = Generation(byte_level)
    generation.add(1, generation.grammar(SCHEMA), temperature=0.0, logprobs=1)
    logits = generation.logits(1)
    (token,) = generation.sampler.sample([1], logits[None])
    assert token.logprobs is not None
    expected = torch.log_softmax(logits, 0)
    assert token.logprobs.logprob == pytest.approx(float(expected[token.token_id]), abs=1e-5)
    assert token.logprobs.top[0][0] == int(logits.argmax()) != token.token_id


def test_two_end_tokens_are_both_ends(byte_level: Path) -> None:
    generation = Generation(byte_level)
    other = backend(byte_level).token_to_id("<|endoftext|>")
    grammar = grammar_for({"const": 1}, (generation.eos, other))
    for request_id, end in enumerate((generation.eos, other)):
        bias = {end: 100.0}
        stops = (generation.eos, other)
        generation.add(request_id, grammar, temperature=0.0, logit_bias=bias, stop_token_ids=stops)
        generation.step(request_id)
        logits = torch.zeros(1, VOCAB_SIZE)
        logits[0, end] = 1.0
        assert generation.sampler.sample([request_id], logits)[0].token_id == end


class TestFailures:
    def test_a_grammar_that_does_not_compile(self, byte_level: Path) -> None:
        generation = Generation(byte_level)
        generation.add(1, Grammar("start: (", (generation.eos,)), temperature=0.0)
        generation.add(2, generation.grammar(SCHEMA), temperature=0.0)
        generation.step(1, 2)
        assert generation.errors[1]
        assert generation.errors[2] is None
        generation.run(2)

    def test_history_that_is_not_of_the_grammar(self, byte_level: Path) -> None:
        generation = Generation(byte_level)
        generation.add(1, generation.grammar(SCHEMA), output=(250, 250), temperature=0.0)
        generation.step(1)
        assert generation.errors[1]
        generation.step(1)
        assert generation.errors[1]

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        grammar = Grammar(json.dumps({}), (2,))
        for tokenizer_file in (None, tmp_path / "tokenizer.json"):
            sampler = Sampler(VOCAB_SIZE, CPU, tokenizer_file)
            sampling = SamplingParams(5, temperature=0.0, grammar=grammar)
            sampler.add(NewRequest(1, pack_int32([1]), b"", sampling, 0))
            (token,) = sampler.sample([1], torch.zeros(1, VOCAB_SIZE))
            assert "tokenizer.json" in str(token.error)


def test_the_wait_for_masks_is_counted(byte_level: Path) -> None:
    generation = Generation(byte_level)
    generation.add(1, None, temperature=0.0)
    generation.step(1)
    assert generation.sampler.grammar_wait_seconds == 0.0
    generation.add(2, generation.grammar(SCHEMA), temperature=0.0)
    generation.step(1, 2)
    assert generation.sampler.grammar_wait_seconds > 0.0
