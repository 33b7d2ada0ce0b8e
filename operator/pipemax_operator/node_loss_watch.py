"""What the operator itself has seen of lost nodes: the nodes, and since when a pod is lost.

Times of other machines alone end no pod. An operator that has just started, or an API server that
was away, has not seen that nobody came back meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pipemax_operator.node_loss import find_lost_pods, is_suspect
from pipemax_operator.observation import parse_node, parse_pod
from pipemax_operator.observed import Observed, ObservedNode

Document = dict[str, Any]
Key = tuple[str, str]
ListNodes = Callable[[], Awaitable[Sequence[Document] | None]]

MAX_NODE_AGE_SECONDS = 5.0
MAX_GAP_SECONDS = 60.0


class NodeLossWatch:
    """``max_gap_seconds``: after that long without a look, what was seen before counts no more."""

    def __init__(
        self,
        list_nodes: ListNodes,
        max_gap_seconds: float = MAX_GAP_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes = NodeReader(list_nodes, monotonic)
        self._lost = LostPodWatch(max_gap_seconds)
        self._monotonic = monotonic

    async def read_nodes(
        self, pods: Collection[Document], now: datetime, status: Mapping[str, Any] | None = None
    ) -> tuple[ObservedNode, ...] | None:
        """The nodes, if one of the pods gives reason to look at them, or the job's status: one that
        is avoided may be well again."""
        is_avoiding = bool((status or {}).get("avoidedNodes"))
        if not is_avoiding and not any(is_suspect(parse_pod(pod), now) for pod in pods):
            return None
        found = await self._nodes.read()
        return None if found is None else tuple(map(parse_node, found))

    def add(
        self, key: Key, observed: Observed, nodes: tuple[ObservedNode, ...] | None, now: datetime
    ) -> Observed:
        """``observed`` with what is known of the nodes, and for how long pods were seen lost."""
        observed = replace(observed, nodes=nodes)
        uids = [one.pod.uid for one in find_lost_pods(observed, now)]
        return replace(observed, watched_seconds=self._lost.look(key, uids, self._monotonic()))

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._lost.forget(key)


class NodeReader:
    """The nodes, read at most every few seconds for all jobs together."""

    def __init__(self, list_nodes: ListNodes, monotonic: Callable[[], float]) -> None:
        self._list_nodes = list_nodes
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._nodes: Sequence[Document] | None = None
        self._read_seconds = float("-inf")

    async def read(self) -> Sequence[Document] | None:
        """None: the operator may not see nodes."""
        async with self._lock:
            if self._monotonic() - self._read_seconds > MAX_NODE_AGE_SECONDS:
                self._nodes = await self._list_nodes()
                self._read_seconds = self._monotonic()
            return self._nodes


class LostPodWatch:
    """Since when pods are seen lost, by this process's clock. Pure: looks come in by ``look``."""

    def __init__(self, max_gap_seconds: float) -> None:
        self._max_gap_seconds = max_gap_seconds
        self._seen: dict[Key, dict[str, tuple[float, float]]] = {}

    def look(self, key: Key, uids: Collection[str], now_seconds: float) -> dict[str, float]:
        """A job's lost pods as they are now: UID -> seconds since they were first seen so."""
        before = self._seen.pop(key, {})
        seen: dict[str, tuple[float, float]] = {}
        for uid in uids:
            first, last = before.get(uid, (now_seconds, now_seconds))
            has_gap = now_seconds - last > self._max_gap_seconds
            seen[uid] = (now_seconds if has_gap else first, now_seconds)
        if seen:
            self._seen[key] = seen
        return {uid: now_seconds - first for uid, (first, _) in seen.items()}

    def forget(self, key: Key) -> None:
        self._seen.pop(key, None)
