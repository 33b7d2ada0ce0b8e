"""`pipemax run` that waits at the point where a test wants to break into it.

A test that looks at a run from outside is sometimes late, on a busy machine by seconds: the run
would be over. So the test says in a file where the run is to wait for it: the run stays there, and
answers on its port, until the file says something else or is gone, or a signal asks it to stop.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pipemax_worker.cli.main import main
from pipemax_worker.pipeline.executor import PipelineExecutor
from pipemax_worker.runner import job_run
from pipemax_worker.runner.job_run import JobRun
from pipemax_worker.telemetry.progress import ProgressSnapshot

HOLD_VARIABLE = "PIPEMAX_TEST_HOLD"
"""Names the file: a JSON object with a point and the number from which on it is reached."""

POINTS = {
    "requests": lambda snapshot: snapshot.num_done,
    "tokens": lambda snapshot: snapshot.statistics.num_generated_tokens,
    "restarts": lambda snapshot: snapshot.num_pipeline_restarts,
}
LOADING = "loading"
"""The stages' processes are started, and load."""


def is_held(snapshot: ProgressSnapshot | None) -> bool:
    """Whether a run waits that has got so far; None: its stages are loading."""
    try:
        hold = json.loads(Path(os.environ[HOLD_VARIABLE]).read_bytes())
    except FileNotFoundError:
        return False
    if snapshot is None:
        return LOADING in hold
    return any(POINTS[name](snapshot) >= number for name, number in hold.items() if name in POINTS)


def run(arguments: Sequence[str]) -> int:
    """The command line's ``main``, with points to wait at: after every step, and in loading."""
    run_job, publish = JobRun.run, JobRun.publish
    wait_until_ready = PipelineExecutor._wait_until_ready

    def remember_stop(self, stop, *more):  # type: ignore[no-untyped-def]
        self.stop = stop
        return run_job(self, stop, *more)

    def publish_and_wait(self, phase):  # type: ignore[no-untyped-def]
        publish(self, phase)
        while phase == "Running" and not self.stop and is_held(self.snapshot):
            time.sleep(0.005)

    def wait_while_loading(self, *more):  # type: ignore[no-untyped-def]
        while is_held(None):
            time.sleep(0.005)  # a signal raises out of here
        return wait_until_ready(self, *more)

    job_run.PUBLISH_INTERVAL_SECONDS = 0.0
    JobRun.run, JobRun.publish = remember_stop, publish_and_wait  # type: ignore[method-assign]
    PipelineExecutor._wait_until_ready = wait_while_loading  # type: ignore[method-assign]
    return main(arguments)
