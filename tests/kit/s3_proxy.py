"""A proxy before an S3 server that makes requests fail, so that the real client meets real faults.

with FaultyProxy(s3_server.endpoint) as proxy:
    store = open_s3(bucket, environment_for(proxy.endpoint))
    proxy.faults.extend([Fault.UNAVAILABLE, Fault.LOSE_ANSWER])   # of the next two requests
    proxy.constant_fault = Fault.CUT                              # of all after those
"""

from __future__ import annotations

import collections
import contextlib
import enum
import http.client
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SKIPPED_HEADERS = ("transfer-encoding", "connection", "content-length", "date", "server")


class Fault(enum.Enum):
    """What becomes of one request."""

    UNAVAILABLE = "answered 503, not done"
    DENIED = "answered 403, not done"
    CONFLICT = "answered 409, not done"
    CUT = "the connection is cut, not done"
    LOSE_ANSWER = "done, then the connection is cut"
    FAIL_AFTER = "done, then answered 500"
    CUT_BODY = "done, then the connection is cut in the middle of the answer's body"
    IGNORE_CONDITIONS = "done as if If-Match and If-None-Match were not there"


_STATUS = {Fault.UNAVAILABLE: 503, Fault.DENIED: 403, Fault.CONFLICT: 409}


class FaultyProxy:
    """``requests`` lists what came in, as ``METHOD path?query``; ``methods`` are those that fail.

    Ends with its block.
    """

    def __init__(self, target: str) -> None:
        self.faults: collections.deque[Fault | None] = collections.deque()
        self.constant_fault: Fault | None = None
        self.methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
        self.requests: list[str] = []
        self.target = urlsplit(target).netloc
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append(f"{method} {path}")
            if method not in self.methods:
                return None
            return self.faults.popleft() if self.faults else self.constant_fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        proxy: FaultyProxy = self.server.proxy  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.fault_for(self.command, self.path)
        if fault is Fault.CUT:
            return self._cut()
        if fault in _STATUS:
            return self._answer(_STATUS[fault], {}, b"<Error><Code>Injected</Code></Error>")
        status, headers, data = self._forward(proxy.target, body, fault)
        if fault is Fault.LOSE_ANSWER:
            return self._cut()
        if fault is Fault.FAIL_AFTER:
            return self._answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
        self._answer(status, headers, data, fault is Fault.CUT_BODY)

    def _forward(
        self, target: str, body: bytes, fault: Fault | None
    ) -> tuple[int, dict[str, str], bytes]:
        headers = dict(self.headers.items())
        if fault is Fault.IGNORE_CONDITIONS:
            headers = {
                name: value
                for name, value in headers.items()
                if name.lower() not in ("if-match", "if-none-match")
            }
        with contextlib.closing(http.client.HTTPConnection(target, timeout=30)) as connection:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            length = {"Content-Length": answer.headers.get("Content-Length", str(len(data)))}
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _SKIPPED_HEADERS}
            return answer.status, kept | length, data

    def _answer(
        self, status: int, headers: dict[str, str], data: bytes, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence."""
