"""What the end of a stage process means, from its exit code and its last words. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipemax_worker.contract.messages import StageDied, StageFailed
from pipemax_worker.errors import PipemaxError, StageDiedError, error_from_reason


def leaves_last_words(exit_code: int | None) -> bool:
    """Whether a stage that ended so has said why: it exits with the code of a PipemaxError then."""
    return exit_code is not None and os.EX_USAGE <= exit_code <= os.EX_CONFIG


def describe_death(
    stage: int, exit_code: int, last_sequence: int, words: StageFailed | None
) -> StageDied:
    """Of a stage that was not asked to end; its own words say it best."""
    if words is not None:
        return StageDied(stage, exit_code, last_sequence, words.reason, words.message)
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with {exit_code}"
    message = f"stage {stage} {how} after message {last_sequence}"
    if exit_code == -9:
        message += "; if nobody killed it, the machine ran out of memory: lower kvCache.host"
    return StageDied(stage, exit_code, last_sequence, message=message)


def find_unclean_end(
    exit_codes: Mapping[int, int | None],
    words: Mapping[int, StageFailed],
    timeout_seconds: float,
) -> PipemaxError | None:
    """Why not all stages, asked to end ``timeout_seconds`` ago, have done so in order; None if they
    have. An exit code of None is a process that still runs."""
    for failed in words.values():
        return error_from_reason(failed.reason, failed.message)
    for stage, exit_code in exit_codes.items():
        if exit_code is None:
            return StageDiedError(f"stage {stage} has not ended after {timeout_seconds:.1f} s")
        if exit_code:
            return StageDiedError(f"stage {stage} ended with exit code {exit_code}")
    return None
