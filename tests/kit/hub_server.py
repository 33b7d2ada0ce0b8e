"""A small hub on loopback: the few endpoints that huggingface_hub and we need of a real one.

    with HubServer({"org/name": HubRepository.of(folder)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)

It speaks HTTP with ranges, names large files by SHA-256 and sends for them to another path (as a
hub does to its storage), counts what it sends, and misbehaves on request: see :class:`Mischief`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_PIECE_BYTES = 16 << 10
PATIENCE_SECONDS = 60.0


@dataclass
class HubRepository:
    """One model at one commit. Files with these suffixes are "large": named by SHA-256."""

    files: dict[str, bytes]
    commit: str = "c" * 40
    branches: tuple[str, ...] = ("main",)
    large_suffixes: tuple[str, ...] = (".safetensors", ".bin", ".gguf")
    token: str | None = None
    """Needed for files, as for a gated model."""

    @classmethod
    def of(cls, folder: Path, **changes: Any) -> HubRepository:
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        return cls(files, **changes)

    def is_large(self, name: str) -> bool:
        return name.endswith(self.large_suffixes)

    def etag(self, name: str) -> str:
        content = self.files[name]
        if self.is_large(name):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The body of ``/api/models/...?blobs=true``."""
        siblings = []
        for name, content in self.files.items():
            sibling = {"rfilename": name, "size": len(content), "blobId": self.etag(name)}
            if self.is_large(name):
                large = {"sha256": self.etag(name), "size": len(content), "pointerSize": 134}
                sibling |= {"blobId": "0" * 40, "lfs": large}
            siblings.append(sibling)
        return {"id": "x", "modelId": "x", "sha": self.commit, "siblings": siblings, "tags": []}


@dataclass
class Mischief:
    """What the server does wrong.

    hold_after_bytes   once so many bytes of large files went out in all, stop sending until
                       ``HubServer.release`` is called.
    cut_after_bytes    break the next answer's connection after so many bytes of a large file, once.
    num_flips          in so many answers with a large file's first byte, flip it.
    ignores_ranges     send whole files.
    statuses           of coming requests for files, before the server behaves.
    """

    hold_after_bytes: int | None = None
    cut_after_bytes: int | None = None
    num_flips: int = 0
    ignores_ranges: bool = False
    statuses: list[int] = field(default_factory=list)


class HubServer:
    """Runs in threads from ``with`` on. ``bytes_sent`` counts bodies of large files, also what goes
    out to a client that no longer listens; ``bytes_asked`` what was asked of them."""

    def __init__(self, repositories: Mapping[str, HubRepository]) -> None:
        self.repositories = dict(repositories)
        self.mischief = Mischief()
        self.bytes_sent = 0
        self.bytes_asked = 0
        self.requests: list[tuple[str, str]] = []
        self.is_holding = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """No connection is taken any more. May be called twice."""
        self.release()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.break_connections()

    def release(self) -> None:
        """Go on sending, and never hold again."""
        self.mischief.hold_after_bytes = None
        self._released.set()

    def wait_until_holding(self) -> None:
        assert self.is_holding.wait(PATIENCE_SECONDS), "the server was not asked for enough bytes"

    def requested_files(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [path.rpartition("/")[2] for verb, path in self.requests if "/resolve/" in path]

    def note_request(self, verb: str, path: str) -> None:
        with self._lock:
            self.requests.append((verb, path))

    def note_bytes_asked(self, num_bytes: int) -> None:
        with self._lock:
            self.bytes_asked += num_bytes

    def pass_bytes(self, num_bytes: int) -> None:
        """Count bytes that are about to go out; blocks while the server holds."""
        hold = self.mischief.hold_after_bytes
        if hold is not None and self.bytes_sent + num_bytes > hold:
            self.is_holding.set()
            assert self._released.wait(PATIENCE_SECONDS)
        with self._lock:
            self.bytes_sent += num_bytes

    def takes_flip(self) -> bool:
        with self._lock:
            self.mischief.num_flips -= 1
            return self.mischief.num_flips >= 0

    def take_cut(self) -> int | None:
        with self._lock:
            cut, self.mischief.cut_after_bytes = self.mischief.cut_after_bytes, None
            return cut


class _Server(ThreadingHTTPServer):
    """Knows its connections: a server that is gone must not go on answering on old ones."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._connections: list[socket.socket] = []
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def break_connections(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.note_request(self.command, path)
        if path.startswith("/api/models/"):
            self._answer_api(path.removeprefix("/api/models/"))
        elif path.startswith("/storage/"):
            self._answer_storage(path.removeprefix("/storage/"))
        else:
            self._answer_file(path.removeprefix("/"))

    def _answer_api(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        repository = self._find(name, revision or "main")
        if repository is not None:
            self._send(200, json.dumps(repository.describe()).encode())

    def _answer_file(self, path: str) -> None:
        if self.hub.mischief.statuses:
            self._send(self.hub.mischief.statuses.pop(0))
            return
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = self._find(name, revision)
        if repository is None:
            return
        if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self._send(403, headers={"X-Error-Code": "GatedRepo"})
        elif file not in repository.files:
            self._send(404, headers={"X-Error-Code": "EntryNotFound"})
        elif repository.is_large(file):
            headers = {
                "Location": f"/storage/{name}/{file}",
                "X-Repo-Commit": repository.commit,
                "X-Linked-Etag": f'"{repository.etag(file)}"',
                "X-Linked-Size": str(len(repository.files[file])),
            }
            self._send(302, headers=headers)
        else:
            self._send_file(repository, file)

    def _answer_storage(self, path: str) -> None:
        name, _, file = path.rpartition("/")
        self._send_file(self.hub.repositories[name], file)

    def _find(self, name: str, revision: str) -> HubRepository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(401, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in (*repository.branches, repository.commit):
            self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def _send_file(self, repository: HubRepository, name: str) -> None:
        content = repository.files[name]
        start, end = 0, len(content)
        wanted = self.headers.get("Range")
        has_range = wanted is not None and not self.hub.mischief.ignores_ranges
        if has_range:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1) if last else end
        if start == 0 and end > 0 and repository.is_large(name) and self.hub.takes_flip():
            content = bytes([content[0] ^ 1]) + content[1:]
        headers = {
            "ETag": f'"{repository.etag(name)}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        if has_range:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._send(
            206 if has_range else 200, content[start:end], headers, repository.is_large(name)
        )

    def _send(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        is_large: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_large:
            self.hub.note_bytes_asked(len(body))
        cut = self.hub.take_cut() if is_large else None
        try:
            self._send_body(body[:cut], is_large)
        except OSError:  # the client is gone, or was killed
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def _send_body(self, body: bytes, is_large: bool) -> None:
        for start in range(0, len(body), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            if is_large:
                self.hub.pass_bytes(len(piece))
            self.wfile.write(piece)
