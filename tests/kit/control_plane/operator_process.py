"""The operator as a process of its own, as its pod runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.parent_bound import start_bound
from kit.ports import free_port

START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 60.0


class OperatorProcess:
    """``kopf run`` against a control plane. ``log`` is its output; ``pages``: where it serves its
    metrics, for who has told it a port."""

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
        kubeconfig: Path | None = None,
        port: int = 0,
        arguments: Sequence[str] = (),
    ) -> None:
        self.log = folder / "operator.log"
        self.port = port or free_port()
        self.pages = ""
        self._arguments = arguments
        self._scope = ["--namespace", namespace] if namespace else ["--all-namespaces"]
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or plane.kubeconfig),
            **({"PIPEMAX_NAMESPACES": namespace} if namespace else {}),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process_id(self) -> int:
        assert self._process is not None, "the operator does not run"
        return self._process.pid

    def start(self, wait: bool = True) -> None:
        """Returns when it answers its probe; at once without ``wait``."""
        with open(self.log, "ab") as log:
            self._process = start_bound(
                [
                    *(sys.executable, "-m", "kopf", "run", "-m", "pipemax_operator.handlers"),
                    *(*self._scope, "--standalone"),
                    f"--liveness=http://127.0.0.1:{self.port}/healthz",
                    *self._arguments,
                ],
                log,
                self._environment,
            )
        if not wait:
            return
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.log.read_text(encoding="utf-8")
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=30),
            ):
                return
            time.sleep(0.1)
        raise AssertionError(f"the operator does not answer:\n{self.log.read_text('utf-8')}")

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a node's crash or the out-of-memory killer does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextlib.contextmanager
def running_operator(
    plane: ControlPlane,
    folder: Path,
    namespace: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[OperatorProcess]:
    """An operator as long as the block runs."""
    operator = OperatorProcess(plane, folder, namespace, environment)
    operator.start()
    try:
        yield operator
    finally:
        operator.stop()
