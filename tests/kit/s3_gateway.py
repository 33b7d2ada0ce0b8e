"""versitygw, an S3 server in Go, over a folder of its own: for trials that ask much of a server.

moto, which all tests use (``s3_server``), answers one request after the other, and takes 0.3 ms for
every key of a listing. This one takes a tenth of that, and its conditional writes are real. It is
built by ``make many-workers`` where Go is at hand.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from kit.ports import free_port
from kit.s3_server import environment_for

BINARY = Path(__file__).parents[2] / ".cache" / "versitygw"
_START_SECONDS = 30.0


class S3Gateway:
    """The running server; ``stop`` ends it and removes what it held. As ``S3Server`` otherwise."""

    def __init__(self, binary: Path = BINARY) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="versitygw-"))
        address = f"127.0.0.1:{free_port()}"
        self.endpoint = f"http://{address}"
        self.environment = environment_for(self.endpoint)
        self._process = subprocess.Popen(
            [str(binary), "--quiet", "--port", address, "posix", str(self._folder)],
            env={
                **os.environ,
                "ROOT_ACCESS_KEY": self.environment["AWS_ACCESS_KEY_ID"],
                "ROOT_SECRET_KEY": self.environment["AWS_SECRET_ACCESS_KEY"],
            },
            stdout=subprocess.DEVNULL,
        )
        self._wait_until_it_listens()

    def new_bucket(self) -> str:
        """An empty bucket of its own, as ``s3://NAME``: a folder, for this server."""
        name = f"bucket-{uuid.uuid4().hex}"
        (self._folder / name).mkdir()
        return f"s3://{name}"

    def stop(self) -> None:
        """Kill the server and remove its folder."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)

    def _wait_until_it_listens(self) -> None:
        host, _, port = self.endpoint.removeprefix("http://").partition(":")
        last = time.monotonic() + _START_SECONDS
        while time.monotonic() < last and self._process.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=1.0).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"versitygw did not listen at {self.endpoint}")
