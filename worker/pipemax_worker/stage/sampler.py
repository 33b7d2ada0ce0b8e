"""Chooses the next token of every request of a batch. Lives on the last stage.

A request's tokens depend on its own logits, parameters, seed and history, and on nothing else: not
on the batch it is in, not on the number of stages. Log-probabilities are those of the model's raw
logits, before grammar, bias, penalties and temperature (vLLM's default).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pipemax_worker.contract.messages import NewRequest, SampledToken
from pipemax_worker.contract.request import TokenLogprobs
from pipemax_worker.contract.transfers import unpack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.sampling.bitmask import apply_masks
from pipemax_worker.stage.sampling.filters import draw, filter_candidates
from pipemax_worker.stage.sampling.grammar import GrammarMasks
from pipemax_worker.stage.sampling.matcher import TokenMask
from pipemax_worker.stage.sampling.penalties import Penalties
from pipemax_worker.stage.sampling.random import uniform

SPARSE_FACTOR = 16
"""Where a mask leaves fewer than one token in so many, the others are left out before filtering."""


class Sampler:
    """Holds what sampling needs of each request between :meth:`add` and :meth:`remove`.

    ``tokenizer_file``: the model's tokenizer.json, read when the first request with a grammar
    comes; without it such a request fails.
    """

    def __init__(
        self, vocab_size: int, device: torch.device, tokenizer_file: Path | None = None
    ) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._tokenizer_file = tokenizer_file
        self._requests: dict[int, RequestSampler] = {}
        self._grammars: GrammarMasks | None = None

    @property
    def grammar_wait_seconds(self) -> float:
        """How long :meth:`sample` has waited for grammar masks, in all."""
        return 0.0 if self._grammars is None else self._grammars.wait_seconds

    def add(self, new_request: NewRequest) -> None:
        """Begin a request, or begin it anew, with the output that it already has."""
        request_id, params = new_request.request_id, new_request.sampling
        self._requests[request_id] = RequestSampler(new_request, self._vocab_size, self._device)
        if self._grammars is not None:
            self._grammars.remove(request_id)
        if params.grammar is None:
            return
        if self._grammars is None:
            self._grammars = GrammarMasks(self._tokenizer_file, self._vocab_size)
        output = unpack_int32(new_request.output_token_ids)
        self._grammars.add(request_id, params.grammar, params.stop_token_ids, output)

    def remove(self, request_id: int) -> None:
        """Forget a request; one that was never added is ignored."""
        self._requests.pop(request_id, None)
        if self._grammars is not None:
            self._grammars.remove(request_id)

    @torch.inference_mode()
    def sample(self, request_ids: Sequence[int], logits: torch.Tensor) -> list[SampledToken]:
        """One token for each row of ``logits`` [num_requests, vocab_size] float32, in row order;
        they become part of their requests' output.

        Raises InvariantError for a request that was not added.
        """
        requests = [self._request(request_id) for request_id in request_ids]
        if len(requests) != logits.shape[0]:
            raise InvariantError(
                f"{len(requests)} requests are to be sampled from {logits.shape[0]} rows of logits"
            )
        masks = self._grammars.wait(request_ids) if self._grammars is not None else {}
        token_ids = self._choose(requests, logits, masks).tolist()
        if masks and self._grammars is not None:
            self._grammars.advance(zip(request_ids, token_ids, strict=True))
        sampled = []
        for row, (request, token_id) in enumerate(zip(requests, token_ids, strict=True)):
            request.record(token_id)
            logprobs = request.logprobs(logits[row], token_id)
            error = masks[row].error if row in masks else None
            sampled.append(SampledToken(request.request_id, token_id, logprobs, error))
        return sampled

    @torch.inference_mode()
    def launch(self, request_ids: Sequence[int], logits: torch.Tensor) -> LaunchedTokens | None:
        """What :meth:`sample` does, without waiting for the device: the tokens become part of their
        requests' output when they are finished. None if a row is more than plainly greedy.

        Requests may be launched again before they are finished: being plainly greedy does not end
        with a further token.
        """
        requests = [self._request(request_id) for request_id in request_ids]
        if all(request.is_simple for request in requests):
            return LaunchedTokens(requests, logits.argmax(dim=-1))
        return None

    def _choose(
        self,
        requests: Sequence[RequestSampler],
        logits: torch.Tensor,
        masks: Mapping[int, TokenMask],
    ) -> torch.Tensor:
        """[num_requests] int64. Rows of plain greedy requests share one argmax, and so do those
        whose text is complete: which token ends it does not matter, and ``min_tokens``, which
        would leave none, has nothing more to ask for."""
        masked = apply_masks(logits, masks)
        special = [
            row
            for row, request in enumerate(requests)
            if not (request.is_plain_greedy or (row in masks and masks[row].must_end))
        ]
        if len(special) == len(requests):
            token_ids = torch.empty(len(requests), dtype=torch.int64, device=logits.device)
        else:
            token_ids = masked.argmax(dim=-1)
        for row in special:
            num_allowed = masks[row].num_allowed if row in masks else self._vocab_size
            is_sparse = SPARSE_FACTOR * num_allowed < self._vocab_size
            token_ids[row] = requests[row].choose(masked[row], is_sparse)
        return token_ids

    def _request(self, request_id: int) -> RequestSampler:
        try:
            return self._requests[request_id]
        except KeyError:
            raise InvariantError(
                f"request {request_id} is to be sampled, but was never added or is removed"
            ) from None


class LaunchedTokens:
    """Tokens on their way from the device. ``on_device`` [num_requests] int64."""

    def __init__(self, requests: Sequence[RequestSampler], on_device: torch.Tensor) -> None:
        self._requests = requests
        self.on_device = on_device
        self._on_host = on_device.to("cpu", non_blocking=True)

    def finish(self) -> list[SampledToken]:
        """Once the device is through with all that was launched up to them."""
        token_ids = self._on_host.tolist()
        for request, token_id in zip(self._requests, token_ids, strict=True):
            request.record(token_id)
        pairs = zip(self._requests, token_ids, strict=True)
        return [SampledToken(request.request_id, token_id) for request, token_id in pairs]


class RequestSampler:
    """One request's parameters, seed and history."""

    def __init__(self, new_request: NewRequest, vocab_size: int, device: torch.device) -> None:
        self.request_id = new_request.request_id
        self._params = new_request.sampling
        self._seed = new_request.seed
        prompt = unpack_int32(new_request.prompt_token_ids)
        self._penalties = Penalties(self._params, prompt, vocab_size, device)
        output = unpack_int32(new_request.output_token_ids)
        self._penalties.extend(output)
        self._num_output_tokens = len(output)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is simply the one with the greatest logit."""
        return self._params.temperature == 0.0 and self._penalties.is_neutral(
            self._num_output_tokens
        )

    @property
    def is_simple(self) -> bool:
        """Whether that token's id is all there is to know, now and for the tokens after it."""
        params = self._params
        return self.is_plain_greedy and params.logprobs is None and params.grammar is None

    def record(self, token_id: int) -> None:
        """Append an output token."""
        self._penalties.extend([token_id])
        self._num_output_tokens += 1

    def choose(self, logits: torch.Tensor, is_sparse: bool = False) -> torch.Tensor:
        """``logits`` [vocab_size], masked -> the next token's id, a 0-d int64 tensor; never one
        whose logit is minus infinity. ``is_sparse``: most logits are."""
        logits = self._penalties.apply(logits, self._num_output_tokens)
        if self._params.temperature == 0.0:
            return logits.argmax()
        random_number = uniform(self._seed, self._num_output_tokens)
        return draw(filter_candidates(logits, self._params, is_sparse), random_number)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """The distribution that :meth:`choose` draws from, [vocab_size] float64; a single 1 if
        greedy."""
        logits = self._penalties.apply(logits, self._num_output_tokens)
        result = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
        if self._params.temperature == 0.0:
            result[logits.argmax()] = 1.0
            return result
        candidates = filter_candidates(logits, self._params)
        result[candidates.token_ids] = torch.softmax(candidates.logits.double(), dim=0)
        return result

    def logprobs(self, logits: torch.Tensor, token_id: int) -> TokenLogprobs | None:
        """Of the raw ``logits`` [vocab_size], if the request asked for them."""
        count = self._params.logprobs
        if count is None:
            return None
        log_probabilities = torch.log_softmax(logits.float(), dim=0)
        best = torch.topk(log_probabilities, min(count, len(log_probabilities)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return TokenLogprobs(token_id, float(log_probabilities[token_id]), top)
