"""The wire to the API server: one call, its errors, its count, and the fence before writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kubernetes.aio import client, config

Document = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 30.0
WRITE_TIMEOUT_SECONDS = 10.0
_READS = frozenset({"GET"})
_TELLING_WRITES = frozenset({"PATCH", "PUT", "POST"})
"""Answered with the object as it is then."""

CountCall = Callable[[str, str, int], None]
Fence = Callable[[], float]
Learn = Callable[[Document], None]


class ConflictError(Exception):
    """The object has changed since it was read, or another one holds the name."""


class ForbiddenError(Exception):
    """RBAC does not allow it; the message is the API server's."""


class NotLeadingError(Exception):
    """Another operator leads, or may soon: nothing is written."""


def no_fence() -> float:
    """For an operator that is alone by arrangement."""
    return WRITE_TIMEOUT_SECONDS


class ApiServer:
    """Make it with :meth:`connect`, end it with ``close``.

    count   told of every call: verb, resource, HTTP status (0: no answer).
    fence   asked before every write: for how many seconds the write may take. Raises
            NotLeadingError where nothing may be written any more.
    learn   told of every object that a write has been answered with.
    """

    def __init__(
        self,
        api: client.ApiClient,
        count: CountCall = lambda verb, resource, code: None,
        fence: Fence = no_fence,
    ) -> None:
        self._api: Any = api  # its own annotations do not hold
        self.count = count
        self.fence = fence
        self.learn: Learn = lambda document: None

    @classmethod
    async def connect(
        cls, count: CountCall = lambda verb, resource, code: None, fence: Fence = no_fence
    ) -> ApiServer:
        """With the pod's service account, or with the kubeconfig where there is none."""
        untyped: Any = config
        try:
            untyped.load_incluster_config()
        except untyped.ConfigException:
            await untyped.load_kube_config()
        return cls(client.ApiClient(), count, fence)

    async def close(self) -> None:
        await self._api.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Document | None = None,
        content_type: str = "application/json",
        query: list[tuple[str, str]] | None = None,
        missing_is_fine: bool = False,
        timeout_seconds: float | None = None,
        accept: str = "application/json",
    ) -> Document | None:
        """The answer, decoded; None for 404 with ``missing_is_fine``, and for an empty one.

        ``timeout_seconds``: by default the fence's for writes. A caller that names one for a
        write goes past the fence: only the lease itself is written so.
        Raises ForbiddenError (403), ConflictError (409), NotLeadingError, TimeoutError,
        aiohttp.ClientError, and RuntimeError for any other refusal.
        """
        if timeout_seconds is None:
            timeout_seconds = REQUEST_TIMEOUT_SECONDS if method in _READS else self.fence()
        status = 0
        try:
            parameters = await self._api.param_serialize(
                method=method,
                resource_path=path,
                query_params=query or [],
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*parameters, _request_timeout=timeout_seconds)
            data = await response.read()
            status = response.status
        finally:
            self.count(_verb_of(method, path), resource_of(path), status)
        if status == 404 and missing_is_fine:
            return None
        if status >= 400:
            raise _error(status, method, path, data)
        answer: Document | None = json.loads(data) if data else None
        if answer is not None and method in _TELLING_WRITES:
            self.learn(answer)
        return answer


def resource_of(path: str) -> str:
    """``pods/status`` of ``/api/v1/namespaces/a/pods/b/status``: no names, fit for a label."""
    parts = _after_version(path)
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return "/".join(parts[0::2][:2]) if len(parts) > 2 else (parts[0] if parts else "")


def _verb_of(method: str, path: str) -> str:
    """As RBAC names it."""
    if method == "GET":
        parts = _after_version(path)
        if len(parts) > 2 and parts[0] == "namespaces":
            parts = parts[2:]
        return "get" if len(parts) > 1 else "list"
    return {"POST": "create", "PUT": "update"}.get(method, method.lower())


def _after_version(path: str) -> list[str]:
    """What follows ``/api/v1/`` or ``/apis/group/version/``."""
    parts = path.strip("/").split("/")
    return parts[2:] if parts[0] == "api" else parts[3:]


def _error(status: int, method: str, path: str, data: bytes) -> Exception:
    try:
        message = json.loads(data).get("message", "")
    except (json.JSONDecodeError, AttributeError):
        message = data[:500].decode(errors="replace")
    text = f"{method} {path}: {status}: {message}"
    kinds: dict[int, type[Exception]] = {403: ForbiddenError, 409: ConflictError}
    return kinds.get(status, RuntimeError)(text)
