"""A schedule as index tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.batch import build_batch

CPU = torch.device("cpu")


def scheduled(
    request_id: int, done: int, new: int, slots: list[int], needs_sample: bool = True
) -> ScheduledRequest:
    return ScheduledRequest(request_id, done, new, None, pack_int32(slots), needs_sample)


def test_a_chunk_and_two_decoding_requests() -> None:
    batch = build_batch(
        [
            scheduled(10, 0, 5, [7, 3], needs_sample=False),
            scheduled(11, 4, 1, [9, 2]),
            scheduled(12, 3, 1, [5]),
        ],
        4,
        CPU,
    )
    assert (batch.num_tokens, batch.num_requests, batch.block_tokens) == (7, 3, 4)
    indices = batch.indices
    assert indices.positions.tolist() == [0, 1, 2, 3, 4, 4, 3]
    assert indices.slots.tolist() == [7, 7, 7, 7, 3, 2, 5]
    assert indices.offsets.tolist() == [0, 1, 2, 3, 0, 0, 3]
    assert indices.query_starts.tolist() == [0, 5, 6, 7]
    assert indices.context_lens.tolist() == [5, 5, 4]
    assert indices.table_starts.tolist() == [0, 2, 4, 5]
    assert indices.block_tables.tolist() == [7, 3, 9, 2, 5]
    assert indices.sample_rows.tolist() == [5, 6]
    assert batch.sample_ids == (11, 12)
    assert batch.host.num_new_tokens.tolist() == [5, 1, 1]


@given(
    st.lists(
        st.tuples(st.integers(0, 70), st.integers(1, 40), st.booleans()), min_size=1, max_size=20
    ),
    st.sampled_from([1, 3, 16]),
)
def test_every_new_token_goes_where_its_table_says(
    requests: list[tuple[int, int, bool]], block_tokens: int
) -> None:
    """Against a plain loop."""
    schedule, expected, sampled = [], [], []
    for index, (done, new, needs_sample) in enumerate(requests):
        slots = [1000 * index + block for block in range(-(-(done + new) // block_tokens))]
        schedule.append(scheduled(index, done, new, slots, needs_sample))
        for position in range(done, done + new):
            slot = slots[position // block_tokens]
            expected.append((position, slot, position % block_tokens))
        if needs_sample:
            sampled.append(len(expected) - 1)
    indices = build_batch(schedule, block_tokens, CPU).indices
    places = zip(
        indices.positions.tolist(), indices.slots.tolist(), indices.offsets.tolist(), strict=True
    )
    assert list(places) == expected
    assert indices.sample_rows.tolist() == sampled
    assert all(
        tensor.dtype == torch.int64
        for tensor in (indices.positions, indices.slots, indices.sample_rows)
    )


def test_slots_allocated_ahead_are_allowed() -> None:
    assert build_batch([scheduled(0, 0, 2, [4, 5, 6])], 2, CPU).host.slots.tolist() == [4, 4]


class TestInvariants:
    def test_empty_schedule(self) -> None:
        with pytest.raises(InvariantError, match="schedule is empty"):
            build_batch([], 4, CPU)

    def test_too_few_slots(self) -> None:
        with pytest.raises(
            InvariantError, match=r"request 6: 3 new tokens after 2 need 2 slots of 4 tokens, .* 1"
        ):
            build_batch([scheduled(5, 0, 1, [1]), scheduled(6, 2, 3, [2])], 4, CPU)

    def test_no_new_tokens(self) -> None:
        with pytest.raises(InvariantError, match="request 5: 0 new tokens"):
            build_batch([scheduled(5, 3, 0, [1])], 4, CPU)
