"""Starts stage processes from a fork server that has torch loaded already.

The fork server is multiprocessing's: one for this process, started once, gone with it. It imports
torch and the stage's modules before it forks, so a stage starts in a fraction of a second and
shares their pages. This process, the driver, never imports them.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import msgspec

import pipemax_worker
from pipemax_worker.contract.messages import StageConfig

STAGE_ENTRY_POINT = "pipemax_worker.stage.main:main"
PRELOADED_MODULES = ["torch", "pipemax_worker.stage.main"]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Threads that wait for their siblings must sleep, not spin: where other programs want the cores
# too, a spinning thread keeps its sibling from running (7 against 1,275 tokens/s, docs/log.md).
WAIT_VARIABLE, WAIT_POLICY = "OMP_WAIT_POLICY", "PASSIVE"


def start_fork_server(num_threads: int) -> None:
    """Start the fork server unless it runs, with libraries limited to ``num_threads`` threads.

    The limits must be in the environment before torch is loaded. SIGINT and SIGTERM are blocked in
    it: a stop that is sent to the whole process group is the driver's to handle.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED_MODULES)
    package_folder = str(Path(pipemax_worker.__file__).parents[1])
    environment = dict.fromkeys(THREAD_VARIABLES, str(num_threads))
    environment[WAIT_VARIABLE] = os.environ.get(WAIT_VARIABLE, WAIT_POLICY)
    environment["PYTHONPATH"] = os.pathsep.join(
        part for part in (package_folder, os.environ.get("PYTHONPATH", "")) if part
    )
    resource_tracker.ensure_running()  # it would unblock the signals again
    with _environment(environment), _blocked_stop_signals(), _hidden_main_module():
        forkserver.ensure_running()


def start_stage(config: StageConfig, entry_point: str = STAGE_ENTRY_POINT) -> ForkServerProcess:
    """Start one stage; ``entry_point`` is ``module:function``, called with the encoded config."""
    start_fork_server(config.num_threads)
    process = multiprocessing.get_context("forkserver").Process(
        target=call_entry_point,
        args=(entry_point, msgspec.msgpack.encode(config)),
        name=f"pipemax-stage-{config.stage}",
        daemon=True,
    )
    with _hidden_main_module():
        process.start()
    return process


def call_entry_point(entry_point: str, config_bytes: bytes) -> None:
    """What a stage process runs first: finds the stage's code by its import string."""
    module, _, function = entry_point.partition(":")
    getattr(importlib.import_module(module), function)(config_bytes)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _blocked_stop_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Multiprocessing imports the parent's ``__main__`` again in every child. A stage needs nothing
    of it, and a script without an ``if __name__`` guard would run once more: show it an empty one.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
