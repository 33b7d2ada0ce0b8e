"""What changes logits before a token is chosen: bias, penalties, and the ban on early stops.

Order: logit_bias, repetition penalty, presence and frequency penalties, ``min_tokens``; that of
transformers (whose ``generate`` has no presence and frequency penalties) and of vLLM.
"""

from __future__ import annotations

import torch

from pipemax_worker.contract.request import SamplingParams


class Penalties:
    """One request's penalties and the token history they need. Nothing is kept that no parameter of
    the request asks for, and only the logits of tokens that have occurred are touched."""

    def __init__(
        self, params: SamplingParams, prompt: list[int], vocab_size: int, device: torch.device
    ) -> None:
        self._params = params
        bias = {id_: value for id_, value in params.logit_bias.items() if 0 <= id_ < vocab_size}
        self._bias_ids = torch.tensor(list(bias), dtype=torch.int64, device=device)
        self._bias = torch.tensor(list(bias.values()), device=device)
        stop_ids = [token for token in params.stop_token_ids if 0 <= token < vocab_size]
        self._stop_ids = torch.tensor(stop_ids, dtype=torch.int64, device=device)
        self._has_repetition = params.repetition_penalty != 1.0
        self._has_counts = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self._seen = TokenCounts(device)  # prompt and output
        self._output = TokenCounts(device)
        if self._has_repetition:
            self._seen.extend(prompt)

    def is_neutral(self, num_output_tokens: int) -> bool:
        """Whether :meth:`apply` would change nothing at this output position."""
        return not (
            self._has_repetition
            or self._has_counts
            or len(self._bias_ids)
            or self._bans_stops(num_output_tokens)
        )

    def extend(self, token_ids: list[int]) -> None:
        """Take note of the next output tokens."""
        if self._has_repetition:
            self._seen.extend(token_ids)
        if self._has_counts:
            self._output.extend(token_ids)

    def apply(self, logits: torch.Tensor, num_output_tokens: int) -> torch.Tensor:
        """``logits`` [vocab_size] -> the changed logits; the argument is left alone."""
        if self.is_neutral(num_output_tokens):
            return logits
        params, logits = self._params, logits.clone()
        logits[self._bias_ids] += self._bias
        if self._has_repetition:
            ids, penalty = self._seen.token_ids, params.repetition_penalty
            seen = logits[ids]
            logits[ids] = torch.where(seen < 0, seen * penalty, seen / penalty)
        if self._has_counts:
            decrease = params.frequency_penalty * self._output.counts + params.presence_penalty
            logits[self._output.token_ids] -= decrease
        if self._bans_stops(num_output_tokens):
            logits[self._stop_ids] = -torch.inf
        return logits

    def _bans_stops(self, num_output_tokens: int) -> bool:
        return num_output_tokens < self._params.min_tokens and len(self._stop_ids) > 0


class TokenCounts:
    """Which tokens have occurred, and how often, as tensors that change only when they must."""

    def __init__(self, device: torch.device) -> None:
        self.token_ids = torch.empty(0, dtype=torch.int64, device=device)  # [num_distinct]
        self.counts = torch.empty(0, device=device)  # [num_distinct] float32
        self._places: dict[int, int] = {}

    def extend(self, token_ids: list[int]) -> None:
        """Count some more tokens."""
        new = [id_ for id_ in dict.fromkeys(token_ids) if id_ not in self._places]
        if new:
            first = len(self._places)
            self._places.update({token_id: first + i for i, token_id in enumerate(new)})
            device = self.counts.device
            self.token_ids = torch.cat((self.token_ids, torch.tensor(new, device=device)))
            self.counts = torch.cat((self.counts, torch.zeros(len(new), device=device)))
        places = torch.tensor([self._places[id_] for id_ in token_ids], dtype=torch.int64)
        self.counts += torch.bincount(places, minlength=len(self._places)).to(self.counts)
