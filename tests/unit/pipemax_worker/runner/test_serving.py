"""/metrics and /progress, from before the engine is there."""

import json
import socket
import urllib.error
import urllib.request

import msgspec
import pytest
from kit.progress import SNAPSHOT
from pipemax_worker.errors import JobFileError
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.serving import Served, serve_telemetry


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def test_progress_says_starting_until_the_run_is_there() -> None:
    served, announced = Served("reviews"), list[str]()
    with serve_telemetry(RunOptions(port=0), served, announced.append):
        metrics_url = announced[0].split()[1].rstrip(",")
        progress_url = metrics_url.replace("/metrics", "/progress")
        starting = json.loads(get(progress_url))
        assert (starting["job"], starting["phase"]) == ("reviews", "Starting")
        assert starting["fractionDone"] == 0
        assert get(metrics_url) == b""
        assert get(metrics_url.replace("/metrics", "/healthz")) == b"ok\n"
        ready_url = metrics_url.replace("/metrics", "/readyz")
        with pytest.raises(urllib.error.HTTPError, match="503") as loading:
            get(ready_url)
        loading.value.close()

        served.snapshot = lambda: msgspec.structs.replace(SNAPSHOT, phase="Running")
        served.metrics = lambda: b"pipemax_steps_total 1\n"
        assert json.loads(get(progress_url))["phase"] == "Running"
        assert get(metrics_url) == b"pipemax_steps_total 1\n"
        assert get(ready_url) == b"ok\n"
    with pytest.raises(OSError, match="refused"):
        get(metrics_url)


def test_what_other_workers_have_done_is_told_too() -> None:
    served = Served("reviews")
    served.snapshot = lambda: SNAPSHOT
    assert served.progress() == SNAPSHOT
    more = msgspec.structs.replace(SNAPSHOT.closed_ranges, num_done=70, bytes_done=500)
    served.closed_ranges = lambda: more
    assert served.progress().closed_ranges == more
    less = msgspec.structs.replace(more, bytes_done=SNAPSHOT.closed_ranges.bytes_done - 1)
    served.closed_ranges = lambda: less
    assert served.progress().closed_ranges == SNAPSHOT.closed_ranges, "it was looked up before"


def test_nothing_is_served_without_a_port() -> None:
    announced = list[str]()
    with serve_telemetry(RunOptions(), Served("reviews"), announced.append):
        assert not announced


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(JobFileError, match=f"--port {port}: .*use another port"),
            serve_telemetry(RunOptions(port=port), Served("reviews"), print),
        ):
            pytest.fail("served")


def test_an_address_that_is_not_ours() -> None:
    options = RunOptions(port=0, address="192.0.2.1")
    with (
        pytest.raises(JobFileError, match=r"cannot be served at 192\.0\.2\.1"),
        serve_telemetry(options, Served("reviews"), print),
    ):
        pytest.fail("served")
