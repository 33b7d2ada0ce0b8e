"""What changes logits before a token is chosen: bias, penalties, and the ban on early stops.

Order: logit_bias, repetition penalty, presence and frequency penalties, ``min_tokens``; that of
transformers (whose ``generate`` has no presence and frequency penalties) and of vLLM.
"""

from __future__ import annotations

import torch

from pipemax_worker.contract.request import SamplingParams


class Penalties:
    """One request's penalties and the token history they need. Nothing is kept that no parameter of
    the request asks for."""

    def __init__(
        self, params: SamplingParams, prompt: list[int], vocab_size: int, device: torch.device
    ) -> None:
        self._params = params
        self._bias = _bias_vector(params, vocab_size, device)
        self._stop_ids = torch.tensor(
            [token for token in params.stop_token_ids if 0 <= token < vocab_size],
            dtype=torch.int64,
            device=device,
        )
        self._seen: torch.Tensor | None = None  # [vocab_size] bool: in the prompt or the output
        if params.repetition_penalty != 1.0:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt, dtype=torch.int64, device=device)] = True
        self._counts: torch.Tensor | None = None  # [vocab_size] float32: times in the output
        if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
            self._counts = torch.zeros(vocab_size, device=device)

    def is_neutral(self, num_output_tokens: int) -> bool:
        """Whether :meth:`apply` would change nothing at this output position."""
        return (
            self._bias is None
            and self._seen is None
            and self._counts is None
            and not self._bans_stops(num_output_tokens)
        )

    def record(self, token_id: int) -> None:
        """Take note of the next output token."""
        if self._seen is not None:
            self._seen[token_id] = True
        if self._counts is not None:
            self._counts[token_id] += 1.0

    def apply(self, logits: torch.Tensor, num_output_tokens: int) -> torch.Tensor:
        """``logits`` [vocab_size] -> new logits of the same shape; the argument is left alone."""
        params = self._params
        if self._bias is not None:
            logits = logits + self._bias
        if self._seen is not None:
            penalty = params.repetition_penalty
            penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(self._seen, penalised, logits)
        if self._counts is not None:
            logits = logits - params.frequency_penalty * self._counts
            logits = logits - params.presence_penalty * (self._counts > 0)
        if self._bans_stops(num_output_tokens):
            logits = logits.index_fill(0, self._stop_ids, -torch.inf)
        return logits

    def _bans_stops(self, num_output_tokens: int) -> bool:
        return num_output_tokens < self._params.min_tokens and len(self._stop_ids) > 0


def _bias_vector(
    params: SamplingParams, vocab_size: int, device: torch.device
) -> torch.Tensor | None:
    bias = {token: value for token, value in params.logit_bias.items() if 0 <= token < vocab_size}
    if not bias:
        return None
    vector = torch.zeros(vocab_size, device=device)
    ids = torch.tensor(list(bias), dtype=torch.int64, device=device)
    vector[ids] = torch.tensor(list(bias.values()), device=device)
    return vector
