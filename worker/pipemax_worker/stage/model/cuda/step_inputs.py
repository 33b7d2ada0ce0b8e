"""All that a step's kernels read besides weights and KV, as one buffer of int32 words.

The words of a shape always lie at the same places, so a captured graph finds the next step's at the
addresses of the step it was captured with; one copy brings them to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipemax_worker.stage.model.cuda.step_plan import Part, PartShape, StepPlan, StepShape
from pipemax_worker.stage.model.cuda.tiles import Int32s, Int64s

ALIGNMENT_WORDS = 4
"""Kernels read some tables sixteen bytes at a time."""

ROW_REGIONS = ("token_ids", "fed_back", "source_rows", "positions", "slots", "offsets")


@dataclass(frozen=True)
class Region:
    """Words ``start`` to ``start + size`` of the buffer."""

    start: int
    size: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)

    @property
    def start_bytes(self) -> int:
        return 4 * self.start


@dataclass(frozen=True)
class StepLayout:
    """Where the words of a step of ``shape`` lie. ``pages`` come last: their number is not fixed.

    token_ids     of each row (first stage); ``fed_back``: where in the ring of sampled tokens it
                  is instead, or -1.
    source_rows   the batch's row of each row: padding repeats row 0.
    positions, slots, offsets   of each row's KV; padding writes to the scratch slot.
    sample_rows   rows whose logits are wanted, among the padded ones.
    """

    shape: StepShape

    @cached_property
    def _regions(self) -> dict[str, Region]:
        sizes = {name: self.shape.num_rows for name in ROW_REGIONS}
        sizes["sample_rows"] = self.shape.num_sampled
        for name, part in (("decode", self.shape.decode), ("prompts", self.shape.prompts)):
            sizes |= {f"{name}.{key}": size for key, size in _part_sizes(part).items()}
        regions, start = {}, 0
        for name, size in sizes.items():
            regions[name] = Region(start, size)
            start += -(-size // ALIGNMENT_WORDS) * ALIGNMENT_WORDS
        regions["pages"] = Region(start, 0)
        return regions

    def __getitem__(self, name: str) -> Region:
        return self._regions[name]

    def num_words(self, num_pages: int) -> int:
        return self["pages"].start + num_pages

    def attention_plan(self, name: str, scores_offset_bytes: int) -> list[int]:
        """FlashInfer's ``PrefillPlanInfo`` (0.6) for one part: where in the buffer its tables lie.

        ``scores_offset_bytes``: where in the float workspace the partial results' scores begin,
        after the partial results themselves.
        """
        part = self.shape.decode if name == "decode" else self.shape.prompts
        at = {key: self[f"{name}.{key}"].start_bytes for key in _part_sizes(part)}
        return [
            *(part.num_tiles, part.num_rows, at["num_rows"], part.tile_rows),
            *(at["request"], at["query_tile"], at["chunk"]),
            *(at["merge_starts"], at["output_starts"], at["chunk_tokens"]),
            *(0, scores_offset_bytes, at["is_tile_valid"]),
            *(1, int(part.is_split)),  # lists have a fixed length
        ]


def _part_sizes(part: PartShape) -> dict[str, int]:
    return {
        "query_starts": part.num_requests + 1,
        "page_starts": part.num_requests + 1,
        "last_page_tokens": part.num_requests,
        "request": part.num_tiles,
        "query_tile": part.num_tiles,
        "chunk": part.num_tiles,
        "output_starts": part.num_requests + 1,
        "merge_starts": part.num_rows + 1,
        "chunk_tokens": 1,
        "num_rows": 1,
        "is_tile_valid": -(-part.num_tiles // 4),  # one byte each
    }


def pack_step(
    plan: StepPlan, layout: StepLayout, block_tokens: int, scratch_slot: int, words: Int32s
) -> int:
    """Write a step's words but its tokens; returns how many, those included: ``layout.num_words``
    of its pages."""
    host = plan.host
    padded = _PaddedRows(plan, layout.shape)
    source_rows = np.arange(len(host.positions), dtype=np.int32)
    padded.put(words[layout["source_rows"].slice], source_rows, 0)
    padded.put(words[layout["positions"].slice], host.positions, 0)
    padded.put(words[layout["slots"].slice], host.slots, scratch_slot)
    padded.put(words[layout["offsets"].slice], host.offsets, 0)
    _put(words[layout["sample_rows"].slice], padded.place_of(host.sample_rows), 0)
    for name, part in (("decode", plan.decode), ("prompts", plan.prompts)):
        _pack_part(plan, part, layout, name, block_tokens, words)
    pages = layout["pages"].start
    words[pages : pages + len(plan.pages)] = plan.pages
    return pages + len(plan.pages)


def pack_tokens(
    plan: StepPlan, layout: StepLayout, token_ids: Int32s, fed_back: Int64s | None, words: Int32s
) -> None:
    """Write the words that come last: ids, and where on the device those are that are not known."""
    padded = _PaddedRows(plan, layout.shape)
    padded.put(words[layout["token_ids"].slice], token_ids, 0)
    if fed_back is not None:
        padded.put(words[layout["fed_back"].slice], fed_back, -1)


def prompts_start(plan: StepPlan, shape: StepShape) -> int:
    return plan.decode.num_rows if shape.prompts_start is None else shape.prompts_start


class _PaddedRows:
    """Where the batch's rows go: decoding ones to the front, then prompts, behind padding if they
    must begin at a known place."""

    def __init__(self, plan: StepPlan, shape: StepShape) -> None:
        self._num_decode = plan.decode.num_rows
        self._prompts_start = prompts_start(plan, shape)
        self._prompts_end = self._prompts_start + plan.prompts.num_rows

    def put(self, target: Int32s, values: Sequence[int] | np.ndarray, padding: int) -> None:
        target[: self._num_decode] = values[: self._num_decode]
        target[self._num_decode : self._prompts_start] = padding
        target[self._prompts_start : self._prompts_end] = values[self._num_decode :]
        target[self._prompts_end :] = padding

    def place_of(self, rows: np.ndarray) -> np.ndarray:
        shift = self._prompts_start - self._num_decode
        return rows + np.where(rows < self._num_decode, 0, shift)


def _pack_part(
    plan: StepPlan, part: Part, layout: StepLayout, name: str, block_tokens: int, words: Int32s
) -> None:
    tiles = part.tiles
    first = 0 if part is plan.decode else plan.decode.num_requests
    page_starts = plan.page_starts[first : first + part.num_requests + 1]
    query_starts = np.zeros(part.num_requests + 1, np.int64)
    np.cumsum(part.num_new, out=query_starts[1:])
    last_page = part.context_lens - (np.diff(page_starts) - 1) * block_tokens

    def region(key: str) -> Int32s:
        return words[layout[f"{name}.{key}"].slice]

    # Where a graph does not know the first row, the tables count from the step's first one.
    is_absolute = part is plan.prompts and layout.shape.prompts_start is None
    first_row = plan.decode.num_rows if is_absolute else 0
    _put(region("query_starts"), query_starts + first_row, part.num_rows + first_row)
    _put(region("page_starts"), page_starts, int(page_starts[-1]))
    _put(region("last_page_tokens"), last_page, 1)
    _put(region("request"), tiles.request, part.num_requests)
    _put(region("query_tile"), tiles.query_tile, 0)
    _put(region("chunk"), tiles.chunk, 0)
    last_output = tiles.num_partial_results + first_row
    _put(region("output_starts"), tiles.output_starts + first_row, last_output)
    _put(region("merge_starts"), tiles.merge_starts, tiles.num_partial_results)
    region("chunk_tokens")[:] = tiles.chunk_tokens
    region("num_rows")[:] = part.num_rows
    is_valid = region("is_tile_valid").view(np.uint8)
    is_valid[: tiles.num_tiles] = 1
    is_valid[tiles.num_tiles :] = 0


def _put(target: Int32s, values: np.ndarray, padding: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = padding
