"""``/metrics``, ``/progress``, ``/healthz`` and ``/readyz`` over HTTP while a job runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT_TYPE_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class TelemetryServer:
    """Serves until :meth:`close`. Port 0 takes a free one; :attr:`port` says which. ``/healthz``
    answers as long as the process does, ``/readyz`` once ``is_ready``.

    Raises OSError if the port is taken: the caller decides whether that ends the run.
    """

    def __init__(
        self,
        address: str,
        port: int,
        metrics: Callable[[], bytes],
        progress: Callable[[], bytes],
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        routes: dict[str, tuple[str, Callable[[], bytes]]] = {
            "/metrics": (CONTENT_TYPE_METRICS, metrics),
            "/progress": ("application/json", progress),
            "/healthz": ("text/plain; charset=utf-8", lambda: b"ok\n"),
            "/readyz": ("text/plain; charset=utf-8", lambda: b"ok\n"),
        }

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content_type, body = routes.get(self.path.split("?")[0], (None, None))
                if content_type is None or body is None:
                    self.send_error(404, "try /metrics, /progress, /healthz or /readyz")
                    return
                if self.path == "/readyz" and not is_ready():
                    self.send_error(503, "the stages load")
                    return
                data = body()
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (base class)
                """A scrape every few seconds is not worth a log line."""

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="telemetry", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
