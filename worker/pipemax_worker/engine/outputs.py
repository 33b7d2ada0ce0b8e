"""Sampled tokens become text: when a request stops, and what is returned of it."""

from __future__ import annotations

from pipemax_worker.contract.messages import SampledToken
from pipemax_worker.contract.request import FinishedRequest, FinishReason
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.errors import RequestError


def append_token(state: RequestState, sampled: SampledToken) -> FinishReason | None:
    """Take the next output token; the reason if the text ends with it.

    A stop token is not part of the text. Raises what the stop checker raises, and RequestError
    ``grammar_failed`` where the stage says so.
    """
    if sampled.error is not None:
        raise RequestError("grammar_failed", sampled.error, "body.response_format")
    sampling = state.request.sampling
    token_id = sampled.token_id
    if token_id in sampling.stop_token_ids:
        return FinishReason.STOP
    state.token_ids.append(token_id)
    if sampled.logprobs is not None:
        state.logprobs.append(sampled.logprobs)
    if state.stop_checker is not None and state.stop_checker.append(token_id):
        return FinishReason.STOP
    if len(state.token_ids) >= state.max_known_tokens:
        return FinishReason.LENGTH
    return None


def build_finished(
    state: RequestState,
    reason: FinishReason,
    error_code: str | None = None,
    error_message: str | None = None,
) -> FinishedRequest:
    has_logprobs = state.request.sampling.logprobs is not None
    return FinishedRequest(
        key=state.request.key,
        choice=state.request.choice,
        token_ids=tuple(state.token_ids[state.num_prompt_tokens :]),
        finish_reason=reason,
        num_prompt_tokens=state.num_prompt_tokens,
        num_cached_tokens=state.num_cached_tokens,
        logprobs=tuple(state.logprobs) if has_logprobs else None,
        error_code=error_code,
        error_message=error_message,
    )
