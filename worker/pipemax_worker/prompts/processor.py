"""From an input line to requests for the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipemax_worker.contract.grammar import Grammar
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.request import RecordKey, Request, SamplingParams, StopChecker
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.detokenizer import StopStringChecker
from pipemax_worker.prompts.fields import Fields, checked_string
from pipemax_worker.prompts.grammars import GrammarCompiler
from pipemax_worker.prompts.line import BatchLine, Endpoint, parse_line
from pipemax_worker.prompts.messages import take_messages, take_prompt
from pipemax_worker.prompts.parameters import GenerationParameters, take_parameters
from pipemax_worker.prompts.seeds import derive_seed
from pipemax_worker.prompts.settings import PromptSettings
from pipemax_worker.prompts.tokenizer import Tokenizer


@dataclass(frozen=True)
class PreparedLine:
    """One input line, ready for the engine; ``requests`` has one request a choice, in order.

    ``model`` is the name that the line used, or the job's. Keeps what the response needs.
    """

    key: RecordKey
    line_number: int | None
    custom_id: str
    endpoint: Endpoint
    model: str
    requests: tuple[Request, ...]
    stop: tuple[str, ...]
    tokenizer: Tokenizer

    def stop_checker(self, choice: int) -> StopChecker | None:
        """A fresh checker for one choice's output, or None where the line has no stop strings."""
        if not self.stop:
            return None
        min_tokens = self.requests[choice].sampling.min_tokens
        return StopStringChecker(self.tokenizer, self.stop, min_tokens)


class PromptProcessor:
    """Turns input lines into requests: checks everything that a line can get wrong.

    Holds no state between lines but the grammars of schemas. The text of a request ends at the
    model's end-of-sequence ids (those of its configs and its tokenizer's) unless the line says
    ``ignore_eos``; one that follows a schema ends there in any case, once it is complete.

    tokenizer_file   the model's tokenizer.json, for ``response_format``; None: not supported.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model_config: ModelConfig,
        settings: PromptSettings,
        tokenizer_file: Path | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = model_config.vocab_size
        self._settings = settings
        self._model_names = (settings.model_name, *settings.aliases)
        eos_token_ids = [*model_config.eos_token_ids]
        if tokenizer.eos_token_id is not None:
            eos_token_ids.append(tokenizer.eos_token_id)
        self._eos_token_ids = tuple(dict.fromkeys(eos_token_ids))
        self._grammars: GrammarCompiler | None = None
        if tokenizer_file is not None:
            self._grammars = GrammarCompiler(tokenizer_file, self._eos_token_ids)

    def close(self) -> None:
        """End the process that compiles schemas, if there is one."""
        if self._grammars is not None:
            self._grammars.close()

    def prepare(self, data: bytes, key: RecordKey, line_number: int | None) -> PreparedLine:
        """Check one line and tokenize its prompt.

        Raises RequestError, and nothing else, whatever ``data`` holds; the codes are those of
        :mod:`pipemax_worker.prompts.line`, ``messages``, ``parameters`` and ``tokenizer``, and
        ``model_not_found``, ``empty_prompt``, ``context_length_exceeded`` and
        ``invalid_response_format``.
        """
        line = parse_line(data)
        fields = Fields(line.body, "body")
        model = self._model(fields)
        parameters = take_parameters(
            fields, line.endpoint, self._settings.defaults, self._vocab_size
        )
        prompt_token_ids = self._prompt_token_ids(line, fields, parameters)
        max_tokens, min_tokens = self._fit(len(prompt_token_ids), parameters)
        sampling = self._sampling_params(parameters, max_tokens, min_tokens)
        return PreparedLine(
            key=key,
            line_number=line_number,
            custom_id=line.custom_id,
            endpoint=line.endpoint,
            model=model,
            requests=self._requests(key, prompt_token_ids, sampling, parameters),
            stop=parameters.sampling.stop,
            tokenizer=self._tokenizer,
        )

    def _model(self, fields: Fields) -> str:
        value = fields.take("model")
        if value is None:
            return self._settings.model_name
        name = checked_string(value, fields.param("model"))
        if name not in self._model_names:
            served = ", ".join(repr(one) for one in self._model_names)
            message = f"body.model {name!r} is not this job's model; it goes by {served}"
            raise RequestError("model_not_found", message, fields.param("model"))
        return name

    def _prompt_token_ids(
        self, line: BatchLine, fields: Fields, parameters: GenerationParameters
    ) -> tuple[int, ...]:
        if line.endpoint is Endpoint.CHAT_COMPLETIONS:
            messages = take_messages(fields)
            fields.refuse_rest()
            param = fields.param("messages")
            kwargs = parameters.chat_template_kwargs
            ids = tuple(self._tokenizer.apply_chat_template(messages, kwargs))
        else:
            prompt = take_prompt(fields, self._vocab_size)
            fields.refuse_rest()
            param = fields.param("prompt")
            ids = tuple(self._tokenizer.encode(prompt)) if isinstance(prompt, str) else prompt
        self._check_room(len(ids), param)
        return ids

    def _check_room(self, num_prompt_tokens: int, param: str) -> None:
        if num_prompt_tokens == 0:
            raise RequestError("empty_prompt", f"{param} has no tokens", param)
        limit = self._settings.max_model_tokens
        if num_prompt_tokens + 1 > limit:
            message = (
                f"{param} has {num_prompt_tokens} tokens; the context holds {limit}, "
                "with at least one for the answer"
            )
            raise RequestError("context_length_exceeded", message, param)

    def _fit(self, num_prompt_tokens: int, parameters: GenerationParameters) -> tuple[int, int]:
        """``(max_tokens, min_tokens)`` within the context: defaults are clipped, a body's not."""
        limit = self._settings.max_model_tokens
        room = limit - num_prompt_tokens
        wanted = parameters.sampling.max_tokens
        if parameters.explicit_max_tokens and wanted is not None and wanted > room:
            message = (
                f"body.max_tokens is {wanted}, and the prompt has {num_prompt_tokens} tokens; "
                f"together they exceed the context of {limit}: at most {room} are left"
            )
            raise RequestError("context_length_exceeded", message, "body.max_tokens")
        max_tokens = room if wanted is None else min(wanted, room)
        min_tokens = parameters.sampling.min_tokens
        if parameters.explicit_min_tokens and min_tokens > max_tokens:
            message = f"body.min_tokens is {min_tokens}; the answer may have {max_tokens} tokens"
            raise RequestError("value_out_of_range", message, "body.min_tokens")
        return max_tokens, min(min_tokens, max_tokens)

    def _sampling_params(
        self, parameters: GenerationParameters, max_tokens: int, min_tokens: int
    ) -> SamplingParams:
        sampling = parameters.sampling
        grammar = self._grammar(parameters.schema)
        goes_on = sampling.ignore_eos and grammar is None
        eos_token_ids = () if goes_on else self._eos_token_ids
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=sampling.logit_bias,
            stop_token_ids=tuple(dict.fromkeys((*eos_token_ids, *sampling.stop_token_ids))),
            logprobs=sampling.logprobs,
            grammar=grammar,
        )

    def _grammar(self, schema: str | None) -> Grammar | None:
        if schema is None:
            return None
        if self._grammars is None:
            param = "body.response_format"
            message = f"{param} needs the model's tokenizer.json, which is not at hand"
            raise RequestError("unsupported_parameter", message, param)
        return self._grammars.compile(schema)

    def _requests(
        self,
        key: RecordKey,
        prompt_token_ids: tuple[int, ...],
        sampling: SamplingParams,
        parameters: GenerationParameters,
    ) -> tuple[Request, ...]:
        default_seed = parameters.sampling.seed
        return tuple(
            Request(
                key=key,
                choice=choice,
                prompt_token_ids=prompt_token_ids,
                sampling=sampling,
                seed=derive_seed(key, choice, parameters.seed, default_seed),
            )
            for choice in range(parameters.sampling.n)
        )
