"""Requests that have no KV yet, in the order in which they are offered for admission."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from pipemax_worker.engine.request_state import RequestState


class WaitingQueue:
    """In order of arrival, or, with a ``window``, those with the highest output limits first.

    Long outputs that begin last would run alone at the end of a job. A request is overtaken by at
    most ``window`` later ones, so nobody starves; equal limits keep their order. The first request
    tells nothing of what limits are usual: ranks are relative to the highest limit so far.

    num_changes   counts who came and went.
    """

    def __init__(self, window: int = 0) -> None:
        self.window = window
        self._states: dict[int, RequestState] = {}
        self._ranked: list[tuple[float, int]] = []
        self._rank_of: dict[int, float] = {}
        self._highest_limit = 1
        self.num_changes = 0

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[RequestState]:
        """In order. Remove nobody meanwhile."""
        for _, request_id in self._ranked:
            yield self._states[request_id]

    @property
    def first(self) -> RequestState:
        """The next in order."""
        return self._states[self._ranked[0][1]]

    def add(self, state: RequestState) -> None:
        limit = state.request.sampling.max_tokens
        self._highest_limit = max(self._highest_limit, limit)
        rank = state.request_id - self.window * limit / self._highest_limit
        self._states[state.request_id] = state
        self._rank_of[state.request_id] = rank
        insort(self._ranked, (rank, state.request_id))
        self.num_changes += 1

    def remove(self, request_id: int) -> None:
        """Whoever does not wait is ignored."""
        if self._states.pop(request_id, None) is None:
            return
        entry = (self._rank_of.pop(request_id), request_id)
        del self._ranked[bisect_left(self._ranked, entry)]
        self.num_changes += 1
