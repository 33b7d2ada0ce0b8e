"""A real S3 server on loopback: moto in a process of its own.

Other tests use it through the fixtures of ``tests/conftest.py``::

    def test_something(s3_server: S3Server) -> None:
        uri = s3_server.new_bucket()                   # "s3://bucket-..." of its own
        store = open_s3(uri, s3_server.environment)    # or monkeypatch.setenv with it

moto looks whether a key is there and then writes it, in threads: two conditional writes could both
win. So the process takes one request after the other, which makes its conditional writes as real as
those of a store in production; ``test_s3_store`` proves it with 16 concurrent creators.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

REGION = "us-east-1"


class S3Server:
    """The running server; ends with ``stop`` or with the process that started it.

    endpoint     ``http://127.0.0.1:PORT``
    environment  what a worker needs in its environment to reach it
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.endpoint: str = json.loads(self._process.stdout.readline())["endpoint"]
        self.environment = environment_for(self.endpoint)

    def new_bucket(self) -> str:
        """An empty bucket of its own, as ``s3://NAME``."""
        import urllib.request

        name = f"bucket-{uuid.uuid4().hex}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            return f"s3://{name}"

    def stop(self) -> None:
        """Kill the server; what it held is gone."""
        self._process.kill()
        self._process.communicate()


def environment_for(endpoint: str) -> dict[str, str]:
    """The environment of a worker that uses the server, or a proxy before it, at ``endpoint``."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
    }


def _serve() -> None:
    """The server's process: says where it listens, and ends when its stdin is closed."""
    import logging
    import os

    from moto.server import create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, _one_at_a_time(create_backend_app("s3")), threaded=True)
    print(json.dumps({"endpoint": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


def _one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    lock = threading.Lock()

    def serialised(environment: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        # The body is read before: a client frozen while it sends must not hold up the others.
        stream, length = environment["wsgi.input"], int(environment.get("CONTENT_LENGTH") or 0)
        is_terminated = environment.get("wsgi.input_terminated", False)
        body = io.BytesIO(stream.read() if is_terminated else stream.read(length))
        with lock:
            return list(application({**environment, "wsgi.input": body}, start))

    return serialised


if __name__ == "__main__":
    _serve()
