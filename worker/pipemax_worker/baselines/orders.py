"""What the driver asks of a baseline process and what it answers: JSON, one object a line.

The driver writes :class:`Order` lines to the process's stdin and reads one :class:`Answer` line for
each from its stdout. ``runner.bench_baseline`` holds the driver's side.
"""

from __future__ import annotations

import msgspec


class Work(msgspec.Struct, frozen=True):
    """The prompts, as token ids, and how many tokens to generate for each: exactly that many."""

    prompts: tuple[tuple[int, ...], ...]
    max_tokens: tuple[int, ...]

    def first(self, count: int) -> Work:
        return Work(self.prompts[:count], self.max_tokens[:count])


class Order(msgspec.Struct, frozen=True):
    """Run all the work once, or the first ``num_requests`` of it.

    method             ``padded``: `generate` in batches; ``continuous``: continuous batching.
    batch_size         of ``padded``.
    order              of ``padded``: batches are cut from the requests sorted by ``output`` or by
                       ``total`` length, so that little is padded.
    max_requests       of ``continuous``: requests at a time; None: all.
    page_size          of ``continuous``: tokens of KV in a page.
    max_batch_tokens   of ``continuous``: tokens of one forward.
    """

    method: str
    batch_size: int = 16
    order: str = "output"
    max_requests: int | None = None
    page_size: int = 32
    max_batch_tokens: int = 256
    num_requests: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """``token_ids`` of each request, in the order of the work; ``error`` says why there are none.
    ``seconds`` counts generation alone."""

    seconds: float = 0.0
    token_ids: tuple[tuple[int, ...], ...] = ()
    error: str | None = None
