"""Starting stages: what the fork server inherits and what the driver keeps."""

import os
import signal
import sys

import pytest
from kit.pipeline_driver import make_configs, make_settings
from pipemax_worker.pipeline import launch
from pipemax_worker.pipeline.launch import call_entry_point, start_fork_server, start_stage

seen: list[bytes] = []


def test_an_entry_point_is_found_by_its_import_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "somewhere", sys.modules[__name__])
    call_entry_point("somewhere:remember", b"config")
    assert seen == [b"config"]


def remember(config_bytes: bytes) -> None:
    seen.append(config_bytes)


def test_the_fork_server_starts_with_limits_that_the_driver_does_not_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inherited: dict[str, object] = {}

    def ensure_running() -> None:
        inherited["threads"] = os.environ["OMP_NUM_THREADS"]
        inherited["path"] = os.environ["PYTHONPATH"]
        inherited["blocked"] = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        inherited["main"] = getattr(sys.modules["__main__"], "__file__", None)

    monkeypatch.setattr(launch.forkserver, "ensure_running", ensure_running)
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = (dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    main = sys.modules["__main__"]
    start_fork_server(num_threads=3)
    assert inherited["threads"] == "3"
    assert str(inherited["path"]).startswith(
        os.path.dirname(os.path.dirname(launch.pipemax_worker.__file__))
    )
    assert {signal.SIGINT, signal.SIGTERM} <= set(inherited["blocked"])  # type: ignore[call-overload]
    assert inherited["main"] is None
    assert (dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before
    assert sys.modules["__main__"] is main


def test_a_started_stage_can_be_waited_for() -> None:
    (config,) = make_configs(make_settings(1))
    process = start_stage(config, "kit.fake_stage:main_that_exits")
    process.join(60)
    assert process.exitcode == 3
    assert process.name == "pipemax-stage-0"
    process.close()
