"""Which of several operators acts: one Lease, as client-go's leader election keeps it, and a fence.

A holder that has not renewed for ``renew_deadline_seconds`` stops writing on its own; others take
the lease after ``duration_seconds`` without a change, each by its own clock. The time between is
what a write that is already on its way may take: ``fence`` gives no write longer than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pipemax_operator.api_server import (
    WRITE_TIMEOUT_SECONDS,
    ApiServer,
    ConflictError,
    ForbiddenError,
    NotLeadingError,
)

Document = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseTiming:
    """client-go's defaults. ``retry_seconds``: between two looks at the lease, and two renewals."""

    duration_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0

    @classmethod
    def of_duration(cls, duration_seconds: float) -> LeaseTiming:
        """In the proportions of the defaults."""
        scale = duration_seconds / 15.0
        return cls(duration_seconds, 10.0 * scale, 2.0 * scale)


class Leadership(Protocol):
    """Whether this process may act."""

    is_leading: bool

    def fence(self) -> float:
        """For how many seconds a write may take. Raises NotLeadingError."""

    async def run(self) -> None:
        """Until cancelled."""

    async def wait(self, leading: bool) -> None:
        """Until it is, or is no longer, so."""

    async def release(self) -> None:
        """Leave it to others at once. Nothing may be at work any more."""


class Standalone:
    """Alone by arrangement: leads for ever."""

    is_leading = True

    def fence(self) -> float:
        return WRITE_TIMEOUT_SECONDS

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait(self, leading: bool) -> None:
        if not leading:
            await asyncio.Event().wait()

    async def release(self) -> None:
        return


def may_take(lease: Document, identity: str, unchanged_seconds: float) -> bool:
    """Whether ``identity`` may write itself into ``lease``, which has stood as it is for
    ``unchanged_seconds`` by our own clock: clocks of two machines are never compared."""
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity") or ""
    if holder in ("", identity):
        return True
    return unchanged_seconds > float(spec.get("leaseDurationSeconds") or 0)


class LeaseLeadership:
    """Over the Lease ``namespace/name``. ``identity`` names this process among all operators: one
    that comes again with the same identity, as a pod's restarted container does, goes on at once.
    """

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        name: str,
        identity: str,
        monotonic: Callable[[], float],
        timing: LeaseTiming | None = None,
    ) -> None:
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace, self._name = namespace, name
        self._identity = identity
        self._monotonic = monotonic
        self._timing = timing or LeaseTiming()
        self._lease: Document | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._condition = asyncio.Condition()
        self.is_leading = False

    def fence(self) -> float:
        left = self._left_seconds()
        if not self.is_leading or left <= 0:
            raise NotLeadingError(f"{self._identity} does not hold the lease {self._name}")
        margin = self._timing.duration_seconds - self._timing.renew_deadline_seconds
        return min(WRITE_TIMEOUT_SECONDS, left + margin)

    async def run(self) -> None:
        """Take the lease when it is free, renew it, notice its loss. Only cancellation ends it."""
        while True:
            try:
                await self._attempt()
            except ConflictError:
                self._lease = None  # somebody was quicker: read it anew
                continue
            except ForbiddenError as error:
                logger.error("leader election lacks a right, nothing is done without: %s", error)
            except Exception as error:  # whatever it is: who no longer looks never leads again
                logger.warning("lease %s: tried again: %s", self._name, error or repr(error))
            await self._turn(self._left_seconds() > 0)
            await asyncio.sleep(self._pause_seconds())

    async def wait(self, leading: bool) -> None:
        async with self._condition:
            await self._condition.wait_for(lambda: self.is_leading is leading)

    async def release(self) -> None:
        if self._lease is None or not self.is_leading:
            return
        await self._turn(False)
        with contextlib.suppress(Exception):
            await self._put(self._lease, holder="")
            logger.info("lease %s is left to others", self._name)

    async def _attempt(self) -> None:
        """One look, or one renewal."""
        started = self._monotonic()
        if not self.is_leading or self._lease is None:
            await self._look()
        if self._lease is None:
            created = self._document({}, self._identity)
            self._keep(await self._call("POST", self._folder, created))
        elif may_take(self._lease, self._identity, self._monotonic() - self._seen_at):
            self._keep(await self._put(self._lease, self._identity))
        else:
            self._renewed_at = None  # another holds it: whatever we held is over
            return
        self._renewed_at = started

    async def _look(self) -> None:
        found = await self._call("GET", f"{self._folder}/{self._name}")
        known = self._lease
        if known is None or found is None or _version(known) != _version(found):
            self._keep(found)

    def _keep(self, lease: Document | None) -> None:
        self._lease = lease
        self._seen_at = self._monotonic()

    async def _put(self, lease: Document, holder: str) -> Document | None:
        body = self._document(lease, holder)
        return await self._call("PUT", f"{self._folder}/{self._name}", body)

    async def _call(self, method: str, path: str, body: Document | None = None) -> Document | None:
        seconds = max(0.5, min(self._timing.renew_deadline_seconds / 2, WRITE_TIMEOUT_SECONDS))
        missing_is_fine = method == "GET"
        return await self._api.call(
            method, path, body, missing_is_fine=missing_is_fine, timeout_seconds=seconds
        )

    def _document(self, before: Document, holder: str) -> Document:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = before.get("spec") or {}
        changes_hands = spec.get("holderIdentity") != holder
        is_new = int(bool(before and holder and changes_hands))
        metadata = {"name": self._name, "namespace": self._namespace}
        if before:
            metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, round(self._timing.duration_seconds)),
                "acquireTime": now if changes_hands and holder else spec.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": (spec.get("leaseTransitions") or 0) + is_new,
            },
        }

    def _left_seconds(self) -> float:
        if self._renewed_at is None:
            return 0.0
        return self._renewed_at + self._timing.renew_deadline_seconds - self._monotonic()

    def _pause_seconds(self) -> float:
        """No longer than the lease is still ours, so that its end is noticed when it comes."""
        left = self._left_seconds()
        pause = self._timing.retry_seconds
        return max(0.05, min(pause, left)) if self.is_leading else pause

    async def _turn(self, leading: bool) -> None:
        if leading is self.is_leading:
            return
        said = "leads" if leading else "no longer leads"
        logger.info("%s %s (lease %s/%s)", self._identity, said, self._namespace, self._name)
        self.is_leading = leading
        if not leading:
            self._renewed_at = None
        async with self._condition:
            self._condition.notify_all()


def _version(lease: Document) -> str:
    return str(lease["metadata"]["resourceVersion"])
