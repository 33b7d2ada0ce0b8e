"""Tokens that the host has not seen: found until it has, and never those of another message."""

import torch
from pipemax_worker.stage.device_tokens import RING_ROWS, DeviceTokens


def tokens_of(ring: torch.Tensor, tokens: DeviceTokens, *request_ids: int) -> list[int | None]:
    places = [tokens.place_of(request_id) for request_id in request_ids]
    return [None if place is None else int(ring.view(-1)[place]) for place in places]


def test_the_newest_token_of_each_request_is_found() -> None:
    ring = torch.zeros(RING_ROWS, 4, dtype=torch.int32)
    tokens = DeviceTokens(ring)
    assert tokens.max_tokens == 4
    tokens.put(0, [7, 8], torch.tensor([70, 80]))
    assert tokens_of(ring, tokens, 7, 8, 9) == [70, 80, None]
    tokens.put(1, [8], torch.tensor([81]))
    assert tokens_of(ring, tokens, 7, 8) == [70, 81]


def test_what_the_host_has_seen_is_forgotten_but_nothing_newer() -> None:
    ring = torch.zeros(RING_ROWS, 4, dtype=torch.int32)
    tokens = DeviceTokens(ring)
    tokens.put(0, [7, 8], torch.tensor([70, 80]))
    tokens.put(1, [8], torch.tensor([81]))
    tokens.forget(0, [7, 8])
    assert tokens_of(ring, tokens, 7, 8) == [None, 81]
    tokens.put(2, [7, 9], torch.tensor([72, 92]))  # into the row of message 0
    assert tokens_of(ring, tokens, 7, 8, 9) == [72, 81, 92]
    tokens.forget(1, [8])
    assert tokens_of(ring, tokens, 8) == [None]
