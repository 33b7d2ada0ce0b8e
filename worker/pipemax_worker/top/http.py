"""Workers of this machine, asked for their ``/progress``."""

from __future__ import annotations

import http.client
import urllib.request

from pipemax_worker.errors import UnreachableError
from pipemax_worker.top.worker_page import WorkerPage, parse_worker_page

DEFAULT_PORT = 9400
"""That a worker's pod serves at, and that the docs use for ``pipemax run --port``."""
TIMEOUT_SECONDS = 3.0


def progress_url(place: str) -> str:
    """Of what a person may give: a whole URL with or without a page, HOST:PORT, or a port."""
    if place.isdecimal():
        place = f"127.0.0.1:{place}"
    if "//" not in place:
        place = f"http://{place}"
    scheme, _, rest = place.partition("//")
    return f"{scheme}//{rest.split('/')[0]}/progress"


def read_worker(url: str) -> WorkerPage:
    """Raises UnreachableError."""
    # What a proxy of the environment would say of a worker is not asked for.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
            return parse_worker_page(answer.read(), url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(
            f"{url}: no worker answers there ({reason}); start one with `pipemax run FILE --port "
            f"{DEFAULT_PORT}`, give its URL, or use --cluster"
        ) from error
