"""`pipemax top`: one frame for scripts, live frames on a terminal, and what does not answer."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.fake_kubectl import FakeKubectl, job_document, pod_document
from kit.progress import make_snapshot
from kit.terminal import on_terminal
from pipemax_worker.cli import top as top_module
from pipemax_worker.cli.main import main
from pipemax_worker.telemetry.http import TelemetryServer
from pipemax_worker.telemetry.progress import progress_as_json

PIPEMAX = (sys.executable, "-m", "pipemax_worker.cli.main")


@pytest.fixture
def worker() -> Iterator[str]:
    """The port of one."""
    elapsed = iter(range(10, 10_000))
    server = TelemetryServer(
        *("127.0.0.1", 0, bytes),
        lambda: progress_as_json(make_snapshot(elapsed_seconds=float(next(elapsed)))),
    )
    yield str(server.port)
    server.close()


def test_one_frame_for_scripts(worker: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([worker], ["--metrics-port", worker], [f"http://localhost:{worker}/metrics"]):
        assert main(["top", "--once", *arguments]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("reviews  Running  http://")
        assert "\x1b" not in printed
    assert main(["top", worker]) == 0, "no terminal: one frame"


def test_one_of_two_does_not_answer(worker: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", worker, "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "reviews Running" in printed
    assert "http://127.0.0.1:1/progress: no worker answers there" in printed


def test_where_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(top_module, "DEFAULT_PORT", 1)
    assert main(["top", "--once"]) == 69
    said = capsys.readouterr().err
    assert "http://127.0.0.1:1/progress: no worker answers" in said
    assert "pipemax run FILE --port" in said


def test_a_terminal_gets_frames_until_q(worker: str) -> None:
    with on_terminal([*PIPEMAX, "top", worker, "--interval", "0.5"]) as terminal:
        terminal.wait_for("reviews", 3)
        assert "since the start" in terminal.printed
        assert "on average" in terminal.printed, "the second frame has a first one before it"
        assert not terminal.shows_keys()
        terminal.press("x")
        terminal.wait_for("reviews", 5)
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.shows_keys()


def test_a_terminal_is_given_back_after_ctrl_c(worker: str) -> None:
    with on_terminal([*PIPEMAX, "top", worker], columns=40, rows=12) as terminal:
        terminal.wait_for("reviews")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
        assert terminal.shows_keys()


def test_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeKubectl(tmp_path / "bin", monkeypatch)
    fake.answer("inferencejobs.pipemax.dev", job_document("reviews"))
    fake.answer("pods", pod_document("reviews-0"))
    fake.answer_page("reviews-0")
    monkeypatch.setenv("COLUMNS", "120")
    options = ["--context", "lab", "--kubeconfig", "file", "-n", "a"]
    assert main(["top", "--cluster", "--once", *options]) == 0
    printed = capsys.readouterr().out
    assert "1 InferenceJob: 1 Running; 1234 tokens/s" in printed
    assert "reviews-0  node-a" in printed
    assert fake.calls()[0].startswith("--context=lab --kubeconfig=file get inferencejobs")

    # A cluster that falls silent is told of, and asked again.
    with on_terminal([*PIPEMAX, "top", "--cluster", "--interval", "0.5"]) as terminal:
        terminal.wait_for("node-a")
        fake.fail("inferencejobs.pipemax.dev", "Unable to connect to the server: refused")
        terminal.wait_for("Unable to connect")
        (fake.folder / "inferencejobs.pipemax.dev.error").unlink()
        terminal.wait_for("node-a", terminal.printed.count("node-a") + 1)
        terminal.press("q")
        assert terminal.end() == 0


def test_without_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["top", "--cluster", "--once"]) == 69
    assert "through kubectl, which is not on the PATH" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1e9", "nan"])
def test_intervals_that_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected seconds from"):
        top_module._seconds(text)
