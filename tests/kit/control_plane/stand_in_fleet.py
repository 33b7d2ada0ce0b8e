"""Thousands of nodes in one event loop: pods run for a while, tell their progress, and end well.

Nothing beats here: the control plane's grace for nodes must be longer than the run.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

Document = dict[str, Any]

JOB_LABEL = "pipemax.dev/inferencejob"
REQUESTS = 1000
_AT_ONCE = 32
_MERGE = "application/strategic-merge-patch+json"


class StandInFleet:
    """``count`` nodes with 8 GPUs each. A pod runs ``run_seconds``; ``port`` of its node's own
    loopback address has its ``/progress``."""

    def __init__(
        self, server: str, token: str, certificate: str, count: int, run_seconds: float, port: int
    ) -> None:
        self._server = server
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = ssl.create_default_context(cafile=certificate)
        self._count, self._run_seconds, self._port = count, run_seconds, port
        self._nodes = {f"stand-in-{n:05d}": f"127.1.{n // 250}.{n % 250 + 1}" for n in range(count)}
        self._started: dict[str, float] = {}
        self._seen: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> StandInFleet:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=_AT_ONCE + 4)
        self._session = aiohttp.ClientSession(self._server, connector=connector)
        application = web.Application()
        application.add_routes([web.get("/progress", self._progress)])
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "0.0.0.0", self._port).start()
        await self.create("/api/v1/nodes", map(self._node, self._nodes))
        self._watcher = asyncio.create_task(self._watch_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._watcher, *self._tasks):
            task.cancel()
        await asyncio.gather(self._watcher, *self._tasks, return_exceptions=True)
        await self._session.close()
        await self._runner.cleanup()

    async def create(self, path: str, documents: Iterable[Document]) -> None:
        """All of them, some at once. Raises aiohttp.ClientError for a refusal."""
        await asyncio.gather(*(self._call("POST", path, document) for document in documents))

    async def get(self, path: str) -> Document:
        return await self._call("GET", path)

    async def _call(
        self, method: str, path: str, body: Document | None = None, kind: str = "application/json"
    ) -> Document:
        headers = {**self._headers, "Content-Type": kind}
        data = None if body is None else json.dumps(body)
        async with (
            self._gate,
            self._session.request(method, path, data=data, headers=headers) as answer,
        ):
            answer.raise_for_status()
            found: Document = await answer.json()
            return found

    def _node(self, name: str) -> Document:
        amounts = {"cpu": "64", "memory": "512Gi", "pods": "16", "nvidia.com/gpu": "8"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "stand-in"}
        times = {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "capacity": amounts,
                "allocatable": amounts,
                "conditions": [{**ready, **times}],
                "addresses": [{"type": "InternalIP", "address": self._nodes[name]}],
            },
        }

    async def _watch_for_ever(self) -> None:
        """From the beginning again whenever the API server ends it: what is done is remembered."""
        path = f"/api/v1/pods?watch=true&labelSelector={JOB_LABEL}&fieldSelector=spec.nodeName!="
        while True:
            timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
            async with self._session.get(path, headers=self._headers, timeout=timeout) as stream:
                async for line in stream.content:
                    self._told(json.loads(line)["object"])

    def _told(self, pod: Document) -> None:
        uid = pod["metadata"].get("uid", "")
        if uid and uid not in self._seen and pod["status"].get("phase") == "Pending":
            self._seen.add(uid)
            task = asyncio.create_task(self._live(pod))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _live(self, pod: Document) -> None:
        metadata, address = pod["metadata"], self._nodes[pod["spec"]["nodeName"]]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._started[address] = time.monotonic()
        running = {"running": {"startedAt": _now()}}
        await self._call("PATCH", path, _pod_status("Running", running, address), _MERGE)
        await asyncio.sleep(self._run_seconds)
        said = {"reason": "Complete", "counts": {"completed": REQUESTS, "failed": 0}}
        times = {"startedAt": _now(), "finishedAt": _now()}
        ended = {"exitCode": 0, "reason": "Completed", "message": json.dumps(said), **times}
        await self._call("PATCH", path, _pod_status("Succeeded", {"terminated": ended}), _MERGE)

    async def _progress(self, request: web.Request) -> web.Response:
        started = self._started.get(request.host.partition(":")[0], time.monotonic())
        fraction = min(0.99, (time.monotonic() - started) / self._run_seconds)
        return web.json_response(
            {
                "requests": {"done": int(REQUESTS * fraction), "failed": 0},
                "fractionDone": fraction,
                "tokensPerSecond": 2000.0,
                "tokens": {"prompt": int(1e6 * fraction), "generated": int(1e5 * fraction)},
                "remainingSeconds": self._run_seconds * (1 - fraction),
            }
        )


def _pod_status(phase: str, state: Document, address: str | None = None) -> Document:
    is_ready = "True" if phase == "Running" else "False"
    container = {"name": "worker", "image": "stand-in", "imageID": "", "restartCount": 0}
    ready = {"status": is_ready, "lastTransitionTime": _now()}
    status: Document = {
        "phase": phase,
        "startTime": _now(),
        "containerStatuses": [{**container, "ready": phase == "Running", "state": state}],
        "conditions": [{"type": kind, **ready} for kind in ("Ready", "ContainersReady")],
    }
    if address is not None:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    return {"status": status}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
