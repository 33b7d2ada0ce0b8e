"""The sampler: a request's tokens are its own, whatever happens around it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from kit.devices import DEVICES
from pipemax_worker.contract.messages import NewRequest
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.sampler import RequestSampler, Sampler

VOCAB_SIZE = 300
CPU = torch.device("cpu")
MIXED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 20},
    {"temperature": 1.2, "top_p": 0.9},
    {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.3},
    {"temperature": 0.0, "presence_penalty": 1.0, "frequency_penalty": 0.5},
    {"temperature": 1.0, "logit_bias": {5: 4.0}, "min_tokens": 4, "stop_token_ids": (2,)},
    {"temperature": 0.0, "logprobs": 3},
]


def new_request(
    request_id: int, output: list[int] | None = None, seed: int | None = None, **params: Any
) -> NewRequest:
    return NewRequest(
        request_id,
        pack_int32([7, 8, 9, request_id]),
        pack_int32(output or []),
        SamplingParams(max_tokens=50, **params),
        seed=1000 + request_id if seed is None else seed,
    )


def logits_for(request_id: int, step: int) -> torch.Tensor:
    """What "the model" says depends on the request and the position alone."""
    random_ = torch.Generator().manual_seed(request_id * 1000 + step)
    return torch.randn(VOCAB_SIZE, generator=random_) * 3


def generate_alone(request_id: int, num_tokens: int, device: torch.device = CPU) -> list[int]:
    sampler = Sampler(VOCAB_SIZE, device)
    sampler.add(new_request(request_id, **MIXED[request_id % len(MIXED)]))
    return [
        sampler.sample([request_id], logits_for(request_id, step)[None].to(device))[0].token_id
        for step in range(num_tokens)
    ]


def test_tokens_do_not_depend_on_the_batch() -> None:
    """Sixteen requests in random batches and orders: each gets what it gets alone."""
    num_tokens, shuffle = 12, random.Random(0)
    sampler = Sampler(VOCAB_SIZE, CPU)
    for request_id in range(16):
        sampler.add(new_request(request_id, **MIXED[request_id % len(MIXED)]))
    outputs: dict[int, list[int]] = {request_id: [] for request_id in range(16)}
    while unfinished := [i for i, output in outputs.items() if len(output) < num_tokens]:
        ids = shuffle.sample(unfinished, shuffle.randint(1, len(unfinished)))
        logits = torch.stack([logits_for(i, len(outputs[i])) for i in ids])
        for sampled in sampler.sample(ids, logits):
            outputs[sampled.request_id].append(sampled.token_id)
    for request_id, output in outputs.items():
        assert output == generate_alone(request_id, num_tokens)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_every_device_draws_the_same_tokens(device: torch.device) -> None:
    for request_id in range(len(MIXED)):
        assert generate_alone(request_id, 6, device) == generate_alone(request_id, 6)


def test_a_request_that_comes_back_goes_on_where_it_was() -> None:
    """Preempted or parked: its history arrives with it, and the tokens are the same."""
    for request_id in range(len(MIXED)):
        whole = generate_alone(request_id, 10)
        sampler = Sampler(VOCAB_SIZE, CPU)
        sampler.add(new_request(request_id, output=whole[:6], **MIXED[request_id]))
        rest = [
            sampler.sample([request_id], logits_for(request_id, step)[None])[0].token_id
            for step in range(6, 10)
        ]
        assert whole[6:] == rest


def test_plain_greedy_is_argmax() -> None:
    sampler = Sampler(VOCAB_SIZE, CPU)
    for request_id in range(3):
        sampler.add(new_request(request_id, temperature=0.0))
    logits = torch.stack([logits_for(i, 0) for i in range(3)])
    sampled = sampler.sample([0, 1, 2], logits)
    assert [token.token_id for token in sampled] == logits.argmax(-1).tolist()
    assert [token.request_id for token in sampled] == [0, 1, 2]


def test_frequencies_follow_the_probabilities() -> None:
    """Over many seeds: chi-square over the likely tokens is near its degrees of freedom."""
    params = {"temperature": 1.1, "top_k": 12, "min_p": 0.01}
    logits, num_draws = logits_for(1, 1), 4000
    expected = RequestSampler(new_request(0, **params), VOCAB_SIZE, CPU).probabilities(logits)
    counts = torch.zeros(VOCAB_SIZE, dtype=torch.float64)
    for seed in range(num_draws):
        request = RequestSampler(new_request(0, seed=seed, **params), VOCAB_SIZE, CPU)
        counts[request.choose(logits)] += 1
    likely = expected > 0
    assert counts[~likely].sum() == 0
    chi_square = (
        (counts - num_draws * expected)[likely] ** 2 / (num_draws * expected[likely])
    ).sum()
    assert float(chi_square) < 3 * int(likely.sum())


def test_choice_n_differs_by_seed_alone() -> None:
    sampler = Sampler(VOCAB_SIZE, CPU)
    texts = set()
    for choice in range(4):
        sampler.add(new_request(0, seed=choice, temperature=1.5))
        logits = [logits_for(0, step)[None] for step in range(8)]
        texts.add(tuple(sampler.sample([0], row)[0].token_id for row in logits))
    assert len(texts) == 4


class TestLogprobs:
    def test_are_those_of_the_raw_logits(self) -> None:
        """Neither bias nor temperature nor penalties show in them."""
        sampler = Sampler(VOCAB_SIZE, CPU)
        sampler.add(new_request(0, temperature=0.5, logit_bias={33: 100.0}, logprobs=2))
        logits = logits_for(0, 0)
        logprobs = sampler.sample([0], logits[None])[0].logprobs
        assert logprobs is not None
        assert logprobs.token_id == 33
        expected = torch.log_softmax(logits, 0)
        assert logprobs.logprob == pytest.approx(float(expected[33]), abs=1e-5)
        best = expected.topk(2)
        assert [token for token, _ in logprobs.top] == best.indices.tolist()
        assert [value for _, value in logprobs.top] == pytest.approx(best.values.tolist())

    def test_zero_means_the_sampled_token_alone(self) -> None:
        sampler = Sampler(VOCAB_SIZE, CPU)
        sampler.add(new_request(0, temperature=0.0, logprobs=0))
        logprobs = sampler.sample([0], logits_for(0, 0)[None])[0].logprobs
        assert logprobs is not None
        assert logprobs.top == ()

    def test_none_unless_asked(self) -> None:
        sampler = Sampler(VOCAB_SIZE, CPU)
        sampler.add(new_request(0, temperature=0.0))
        assert sampler.sample([0], logits_for(0, 0)[None])[0].logprobs is None


class TestProbabilities:
    def test_greedy_is_certain(self) -> None:
        request = RequestSampler(new_request(0, temperature=0.0), VOCAB_SIZE, CPU)
        logits = logits_for(0, 0)
        probabilities = request.probabilities(logits)
        assert float(probabilities[logits.argmax()]) == 1.0
        assert float(probabilities.sum()) == 1.0

    def test_sum_to_one(self) -> None:
        for params in MIXED:
            request = RequestSampler(new_request(0, **params), VOCAB_SIZE, CPU)
            assert float(request.probabilities(logits_for(0, 0)).sum()) == pytest.approx(1.0)


class TestInvariants:
    def test_unknown_request(self) -> None:
        with pytest.raises(InvariantError, match="request 4 is to be sampled, but was never added"):
            Sampler(VOCAB_SIZE, CPU).sample([4], torch.zeros(1, VOCAB_SIZE))

    def test_removed_request(self) -> None:
        sampler = Sampler(VOCAB_SIZE, CPU)
        sampler.add(new_request(4))
        sampler.remove(4)
        sampler.remove(4)
        with pytest.raises(InvariantError, match="never added or is removed"):
            sampler.sample([4], torch.zeros(1, VOCAB_SIZE))

    def test_rows_and_requests_must_match(self) -> None:
        sampler = Sampler(VOCAB_SIZE, CPU)
        sampler.add(new_request(4))
        with pytest.raises(InvariantError, match="1 requests are to be sampled from 2 rows"):
            sampler.sample([4], torch.zeros(2, VOCAB_SIZE))

    def test_no_rows(self) -> None:
        assert Sampler(VOCAB_SIZE, CPU).sample([], torch.zeros(0, VOCAB_SIZE)) == []


class TestLaunch:
    """Tokens chosen without waiting are those that waiting would have chosen."""

    def test_plain_greedy_rows(self) -> None:
        logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
        samplers = [Sampler(8, torch.device("cpu")) for _ in range(2)]
        for sampler in samplers:
            for request_id in range(3):
                params = SamplingParams(max_tokens=9, temperature=0.0)
                sampler.add(NewRequest(request_id, b"", b"", params, 0))
        launched = samplers[0].launch([0, 1, 2], logits)
        assert launched is not None
        assert launched.on_device.tolist() == logits.argmax(-1).tolist()
        assert launched.finish() == samplers[1].sample([0, 1, 2], logits)

    def test_a_token_of_a_request_that_is_gone(self) -> None:
        """It was launched ahead of the end of its text."""
        sampler = Sampler(8, torch.device("cpu"))
        sampler.add(NewRequest(5, b"", b"", SamplingParams(max_tokens=9, temperature=0.0), 0))
        launched = sampler.launch([5], torch.eye(8)[3:4])
        sampler.remove(5)
        assert launched is not None
        assert [token.token_id for token in launched.finish()] == [3]

    @pytest.mark.parametrize(
        "more",
        [
            {"temperature": 1.0},
            {"logprobs": 0},
            {"repetition_penalty": 1.5},
            {"stop_token_ids": (2,), "min_tokens": 4},
        ],
    )
    def test_rows_that_need_the_host(self, more: dict[str, Any]) -> None:
        sampler = Sampler(8, torch.device("cpu"))
        params = SamplingParams(**{"max_tokens": 9, "temperature": 0.0, **more})
        sampler.add(NewRequest(5, pack_int32([1]), b"", params, 0))
        assert sampler.launch([5], torch.zeros(1, 8)) is None
