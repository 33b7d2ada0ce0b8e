"""Single calls of the API server from this process: what beats in time must not wait for a kubectl
to start on a machine that is busy."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

Document = dict[str, Any]

APPLY = "application/apply-patch+yaml"
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
TIMEOUT_SECONDS = 30.0


class ApiClient:
    """One user's, by its token."""

    def __init__(self, server: str, token: str, certificate: Path) -> None:
        self._server, self._token = server, token
        self._tls = ssl.create_default_context(cafile=str(certificate))

    def get(self, path: str) -> Document:
        return self._call("GET", path)

    def patch(self, path: str, body: Document, kind: str = STRATEGIC_MERGE) -> Document:
        return self._call("PATCH", path, body, kind)

    def _call(
        self, method: str, path: str, body: Document | None = None, kind: str = "application/json"
    ) -> Document:
        """AssertionError with what the API server said, or that it is away: as of kubectl."""
        request = urllib.request.Request(
            self._server + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": kind},
            method=method,
        )
        try:
            with urllib.request.urlopen(
                request, timeout=TIMEOUT_SECONDS, context=self._tls
            ) as answer:
                found: Document = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise AssertionError(f"{method} {path}: {error.code} {said}") from None
        except OSError as error:
            raise AssertionError(f"{method} {path}: {error}") from None
