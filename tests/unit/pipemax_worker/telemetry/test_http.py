"""The HTTP side, over a real socket."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from kit.progress import GEOMETRY, make_snapshot
from pipemax_worker.telemetry.http import TelemetryServer
from pipemax_worker.telemetry.metrics import Metrics
from pipemax_worker.telemetry.progress import progress_as_json


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    metrics = Metrics(make_snapshot, GEOMETRY, "1")
    server = TelemetryServer(
        "127.0.0.1", 0, metrics.exposition, lambda: progress_as_json(make_snapshot())
    )
    yield server
    server.close()


def get(server: TelemetryServer, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as response:
        body: bytes = response.read()
    return body


def test_metrics_are_served_as_text(server: TelemetryServer) -> None:
    assert b"pipemax_tokens_total" in get(server, "/metrics")


def test_progress_is_json_with_requests_tiers_and_swap(server: TelemetryServer) -> None:
    progress = json.loads(get(server, "/progress?pretty"))
    assert progress["requests"] == {
        "done": 40,
        "failed": 4,
        "inFlight": 6,
        "estimatedTotal": 160,
    }
    assert progress["closedRanges"]["done"] + progress["openRanges"]["done"] == 40
    assert progress["fractionDone"] == 0.25
    assert progress["kvBlocks"]["device"] == {"used": 3, "cached": 2, "free": 1}
    assert progress["kvSwapBytes"]["host-device"] == 3 << 20
    assert progress["remainingSeconds"] == 90.0


def test_health(server: TelemetryServer) -> None:
    assert get(server, "/healthz") == b"ok\n"


def test_an_unknown_path_says_what_there_is(server: TelemetryServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        get(server, "/nothing")
    caught.value.close()


def test_a_taken_port_is_an_os_error(server: TelemetryServer) -> None:
    with pytest.raises(OSError, match="in use"):
        TelemetryServer("127.0.0.1", server.port, lambda: b"", lambda: b"")
