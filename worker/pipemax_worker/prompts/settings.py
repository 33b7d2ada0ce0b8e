"""What the job says about every line: names of the model, sampling defaults, the context's size.

Plain frozen values, so that this package does not know the job file.
"""

from __future__ import annotations

import msgspec


class SamplingDefaults(msgspec.Struct, frozen=True):
    """Used for each parameter that a line's body does not give. Names as in the body.

    max_tokens  None: as many as the context has room for. A default that does not fit is clipped.
    seed        None is 0. Every line draws numbers of its own from it, unlike a body's ``seed``.
    logprobs    None: none; k: the sampled token's and the k best.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None
    seed: int | None = None


class PromptSettings(msgspec.Struct, frozen=True):
    """``max_model_tokens`` bounds prompt and output together."""

    model_name: str
    max_model_tokens: int
    aliases: tuple[str, ...] = ()
    defaults: SamplingDefaults = SamplingDefaults()
