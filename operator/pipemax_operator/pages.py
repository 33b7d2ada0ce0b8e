"""`/metrics` and `/readyz` over HTTP, in the loop that does the work: one that hangs is silent."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class Pages:
    """``exposition``: the metrics as text. ``unreadiness``: why the operator is not ready, None if
    it is."""

    def __init__(
        self, exposition: Callable[[], bytes], unreadiness: Callable[[], str | None], port: int
    ) -> None:
        self._exposition = exposition
        self._unreadiness = unreadiness
        self._port = port
        application = web.Application()
        application.add_routes(
            [web.get("/metrics", self._metrics), web.get("/readyz", self._readyz)]
        )
        self._runner = web.AppRunner(
            application, handle_signals=False, access_log=None, shutdown_timeout=1.0
        )

    async def start(self) -> None:
        """Raises OSError where the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=self._exposition(), headers=headers)

    async def _readyz(self, _: web.Request) -> web.Response:
        why = self._unreadiness()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)
