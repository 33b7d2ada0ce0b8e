"""The parameters of a body: names, bounds and defaults of everything but the prompt."""

from __future__ import annotations

from typing import Any

import msgspec

from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.fields import (
    Fields,
    checked_integer,
    checked_list,
    checked_number,
    checked_string,
    invalid_type,
)
from pipemax_worker.prompts.line import Endpoint
from pipemax_worker.prompts.response_format import take_response_format
from pipemax_worker.prompts.settings import SamplingDefaults

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_TOKEN_IDS = 1024
# Logits are divided by it: below this float32 overflows long before the result stops changing.
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 2.0
_MAX_TOKENS = 2**31 - 1

_WITHOUT_EFFECT = ("user", "metadata", "store", "service_tier")

# Parameters that are not supported, with the values that ask for nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {"stream": (False,)}
_NEUTRAL_CHAT: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}
_NEUTRAL_COMPLETIONS: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}


class GenerationParameters(msgspec.Struct, frozen=True):
    """A body's parameters with the job's defaults filled in.

    ``explicit_max_tokens``: the body gave it, so it may not be clipped. ``seed``: the body's own.
    ``chat_template_kwargs``: the body's, empty for completions. ``schema``: the text of the JSON
    schema that the answer must follow, if any.
    """

    sampling: SamplingDefaults
    explicit_max_tokens: bool
    explicit_min_tokens: bool
    seed: int | None
    chat_template_kwargs: dict[str, Any] = {}
    schema: str | None = None


def take_parameters(
    fields: Fields, endpoint: Endpoint, defaults: SamplingDefaults, vocab_size: int
) -> GenerationParameters:
    """Take every parameter out of ``fields``; what is left then is not supported.

    Raises RequestError (``invalid_type``, ``invalid_value``, ``value_out_of_range``,
    ``missing_field``, ``invalid_response_format``, ``unsupported_parameter``) with the dotted path
    of the field.
    """
    is_chat = endpoint is Endpoint.CHAT_COMPLETIONS
    max_tokens = _take_max_tokens(fields, is_chat)
    min_tokens = _take_bounded(fields, "min_tokens", 0, _MAX_TOKENS)
    sampling = msgspec.structs.replace(
        _take_sampling(fields, defaults, vocab_size),
        logprobs=_take_logprobs(fields, is_chat, defaults.logprobs),
        max_tokens=defaults.max_tokens if max_tokens is None else max_tokens,
        min_tokens=defaults.min_tokens if min_tokens is None else min_tokens,
    )
    parameters = GenerationParameters(
        sampling=sampling,
        explicit_max_tokens=max_tokens is not None,
        explicit_min_tokens=min_tokens is not None,
        seed=_take_bounded(fields, "seed", -(2**63), 2**64 - 1),
        chat_template_kwargs=_take_chat_template_kwargs(fields) if is_chat else {},
        schema=take_response_format(fields),
    )
    fields.ignore(*_WITHOUT_EFFECT)
    fields.take_neutral(_NEUTRAL | (_NEUTRAL_CHAT if is_chat else _NEUTRAL_COMPLETIONS))
    return parameters


def _take_sampling(fields: Fields, defaults: SamplingDefaults, vocab_size: int) -> SamplingDefaults:
    """What has the same name and meaning in both forms of a body."""

    def number(name: str, default: float, minimum: float, maximum: float) -> float:
        return fields.take_number(name, default, minimum, maximum)

    return msgspec.structs.replace(
        defaults,
        temperature=_take_temperature(fields, defaults.temperature),
        top_p=_take_top_p(fields, defaults.top_p),
        top_k=max(0, fields.take_integer("top_k", defaults.top_k, -1, _MAX_TOKENS)),
        min_p=number("min_p", defaults.min_p, 0.0, 1.0),
        repetition_penalty=number("repetition_penalty", defaults.repetition_penalty, 0.01, 100.0),
        presence_penalty=number("presence_penalty", defaults.presence_penalty, -2.0, 2.0),
        frequency_penalty=number("frequency_penalty", defaults.frequency_penalty, -2.0, 2.0),
        logit_bias=_take_logit_bias(fields, defaults.logit_bias, vocab_size),
        stop=_take_stop(fields, defaults.stop),
        stop_token_ids=_take_stop_token_ids(fields, defaults.stop_token_ids, vocab_size),
        ignore_eos=fields.take_boolean("ignore_eos", defaults.ignore_eos),
        n=fields.take_integer("n", defaults.n, 1, MAX_CHOICES),
    )


def _take_bounded(fields: Fields, name: str, minimum: int, maximum: int) -> int | None:
    value = fields.take(name)
    return None if value is None else checked_integer(value, fields.param(name), minimum, maximum)


def _take_max_tokens(fields: Fields, is_chat: bool) -> int | None:
    """``max_completion_tokens`` is the chat form's newer name for the same number."""
    names = ("max_tokens", "max_completion_tokens") if is_chat else ("max_tokens",)
    found = {
        name: checked_integer(value, fields.param(name), 1, _MAX_TOKENS)
        for name in names
        if (value := fields.take(name)) is not None
    }
    if len(set(found.values())) > 1:
        param = fields.param("max_tokens")
        message = f"{param} and {fields.param('max_completion_tokens')} differ; give one of them"
        raise RequestError("invalid_value", message, param)
    return next(iter(found.values()), None)


def _take_temperature(fields: Fields, default: float) -> float:
    value = fields.take_number("temperature", default, 0.0, MAX_TEMPERATURE)
    if 0.0 < value < MIN_TEMPERATURE and value != default:
        param = fields.param("temperature")
        message = f"{param} must be 0 (greedy) or at least {MIN_TEMPERATURE}; found {value:g}"
        raise RequestError("value_out_of_range", message, param)
    return value


def _take_top_p(fields: Fields, default: float) -> float:
    value = fields.take_number("top_p", default, 0.0, 1.0)
    if value == 0.0:
        param = fields.param("top_p")
        raise RequestError("value_out_of_range", f"{param} must be above 0; found 0", param)
    return value


def _take_logprobs(fields: Fields, is_chat: bool, default: int | None) -> int | None:
    if is_chat:
        return _take_chat_logprobs(fields, default)
    return _take_completion_logprobs(fields, default)


def _take_chat_logprobs(fields: Fields, default: int | None) -> int | None:
    wanted = fields.take_boolean("logprobs", default is not None)
    top = _take_bounded(fields, "top_logprobs", 0, MAX_LOGPROBS)
    if wanted:
        return top if top is not None else default or 0
    if top:
        param = fields.param("top_logprobs")
        message = f"{param} needs {fields.param('logprobs')}: true"
        raise RequestError("invalid_value", message, param)
    return None


def _take_completion_logprobs(fields: Fields, default: int | None) -> int | None:
    value = fields.take("logprobs")
    if value is None:
        return default
    if value is False:  # the chat form's way to say none
        return None
    return checked_integer(value, fields.param("logprobs"), 0, MAX_LOGPROBS)


def _take_logit_bias(
    fields: Fields, default: dict[int, float], vocab_size: int
) -> dict[int, float]:
    value = fields.take("logit_bias")
    if value is None:
        return default
    param = fields.param("logit_bias")
    if not isinstance(value, dict):
        raise invalid_type(param, "an object of token ids and numbers", value)
    return {
        _token_id_of(name, f"{param}.{name}", vocab_size): checked_number(
            bias, f"{param}.{name}", -100.0, 100.0
        )
        for name, bias in value.items()
    }


def _token_id_of(name: str, param: str, vocab_size: int) -> int:
    if not (name.isascii() and name.isdigit() and len(name) <= 10):
        raise RequestError("invalid_type", f"{param}: the key must be a token id", param)
    return checked_integer(int(name), param, 0, vocab_size - 1)


def _take_stop(fields: Fields, default: tuple[str, ...]) -> tuple[str, ...]:
    value = fields.take("stop")
    if value is None:
        return default
    param = fields.param("stop")
    if isinstance(value, str):
        return (checked_string(value, param),)
    values = checked_list(value, param, MAX_STOP_STRINGS)
    return tuple(checked_string(one, f"{param}.{index}") for index, one in enumerate(values))


def _take_stop_token_ids(
    fields: Fields, default: tuple[int, ...], vocab_size: int
) -> tuple[int, ...]:
    value = fields.take("stop_token_ids")
    if value is None:
        return default
    param = fields.param("stop_token_ids")
    values = checked_list(value, param, MAX_STOP_TOKEN_IDS)
    return tuple(
        checked_integer(one, f"{param}.{index}", 0, vocab_size - 1)
        for index, one in enumerate(values)
    )


def _take_chat_template_kwargs(fields: Fields) -> dict[str, Any]:
    value = fields.take("chat_template_kwargs")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_type(fields.param("chat_template_kwargs"), "an object", value)
    return value
