"""A step's words from pinned host memory, by a kernel that reads them there. A Triton kernel.

The GPU's copy engine works in order: a copy of some kilobytes would wait for all KV that is being
loaded, and the step with it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

WORDS_PER_PROGRAM = 1024
NUM_WARPS = 4


@triton.jit(do_not_specialize=["num_words"])  # type: ignore[untyped-decorator, unused-ignore]
def _copy_words(  # type: ignore[no-untyped-def]
    target, source, num_words, num_program_words: tl.constexpr
):
    place = tl.program_id(0) * num_program_words + tl.arange(0, num_program_words)
    is_there = place < num_words
    tl.store(target + place, tl.load(source + place, mask=is_there), mask=is_there)


def copy_words(target: torch.Tensor, source: torch.Tensor, num_words: int) -> None:
    """The first ``num_words`` of pinned ``source`` to ``target`` on the GPU, both int32."""
    grid = (triton.cdiv(num_words, WORDS_PER_PROGRAM),)
    _copy_words[grid](target, source, num_words, WORDS_PER_PROGRAM, num_warps=NUM_WARPS)
