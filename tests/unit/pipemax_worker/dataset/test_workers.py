"""A worker's name tells its successor on the node whether it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from pipemax_worker.dataset.workers import (
    WorkerName,
    is_known_dead,
    name_this_worker,
    parse_worker_name,
)

_PRINT_NAME = (
    "from pipemax_worker.dataset.workers import name_this_worker; "
    "print(name_this_worker(), flush=True); input()"
)


def _start_worker() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PRINT_NAME],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_name_is_the_processes_own_and_stays() -> None:
    assert name_this_worker() == name_this_worker()
    parsed = parse_worker_name(name_this_worker())
    assert parsed is not None
    assert parsed.pid == os.getpid()
    assert str(parsed) == name_this_worker()


def test_a_killed_process_is_known_to_be_dead_and_a_frozen_one_is_not() -> None:
    process, name = _start_worker()
    try:
        os.kill(process.pid, signal.SIGSTOP)
        assert not is_known_dead(name, name_this_worker())
    finally:
        process.kill()
        process.communicate()
    assert is_known_dead(name, name_this_worker())


def test_a_zombie_whose_parent_does_not_reap_is_known_to_be_dead() -> None:
    """As in a container whose first process does not wait for what was handed down to it."""
    process, name = _start_worker()
    try:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_known_dead(name, name_this_worker())
    finally:
        process.communicate()


def test_a_process_id_that_was_given_again_is_another_process() -> None:
    this = parse_worker_name(name_this_worker())
    assert this is not None
    before = WorkerName(this.host, this.boot, os.getpid(), str(int(this.start) - 1))
    assert is_known_dead(str(before), str(this))


@pytest.mark.parametrize("field", ["host", "boot"])
def test_of_another_node_or_boot_nothing_is_known(field: str) -> None:
    this = parse_worker_name(name_this_worker())
    assert this is not None
    parts = {"host": this.host, "boot": this.boot, "pid": 2**30, "start": "1"}
    assert is_known_dead(str(WorkerName(**parts)), str(this))  # type: ignore[arg-type]
    elsewhere = WorkerName(**{**parts, field: "other"})  # type: ignore[arg-type]
    assert not is_known_dead(str(elsewhere), str(this))


def test_nobody_is_dead_to_himself() -> None:
    assert not is_known_dead(name_this_worker(), name_this_worker())


@pytest.mark.parametrize("name", ["", "worker-1", "a-b-c-d", "host-boot-12"])
def test_other_names_say_nothing(name: str) -> None:
    assert parse_worker_name(name) is None
    assert not is_known_dead(name, name_this_worker())


def test_hosts_may_have_dashes() -> None:
    parsed = parse_worker_name("gpu-node-7.rack-2-1a2b3c4d-42-9000")
    assert parsed == WorkerName("gpu-node-7.rack-2", "1a2b3c4d", 42, "9000")
