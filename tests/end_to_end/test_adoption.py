"""What a worker has parked on a node's disk is taken up by whichever worker of the job starts
there, whatever its index. Real processes, each with the host name of a pod of its own.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from kit.jobs import JobFolder, answer_text, text_lines
from kit.processes import RunningJob

NUM_FILES = 4
LINES_PER_FILE = 5
SPEC = {
    "sampling": {"temperature": 0},
    "parallelism.stagesPerNode": 2,
    "engine.maxNumRequests": 1,
    "engine.lookAhead": 2,
}

# The host name of a pod is what its worker's name in the ledger begins with; the machine's boot is
# another one too, so that no worker here can tell whether another one's process lives.
AS_POD = """\
import socket
from pipemax_worker.dataset import workers
socket.gethostname = lambda: {name!r}
workers._boot_id = lambda: {name!r}
"""


class Pod(RunningJob):
    """The worker of one index."""

    def __init__(self, job: JobFolder, index: int, num_tokens: int = 0) -> None:
        """``num_tokens``: it waits when it has generated so many."""
        hold = "tokens" if num_tokens else ""
        prelude = AS_POD.format(name=f"job{index}")
        super().__init__(job, prelude=prelude, hold=hold, at=num_tokens)
        self._num_tokens = num_tokens

    def wait_until_it_waits(self) -> None:
        self.wait_for_tokens(self._num_tokens)
        assert self.progress()["requests"]["inFlight"] > 0

    def finish(self) -> None:
        assert self.end() == 0, self.said

    @property
    def num_taken_up(self) -> int:
        """The tokens whose KV it found on the disk."""
        found = re.search(r"the KV of (\d+) tokens is taken up", "".join(self.said))
        return int(found.group(1)) if found else 0


def stop(*pods: Pod) -> None:
    """All at once, as a job that is suspended."""
    for pod in pods:
        pod.process.send_signal(signal.SIGTERM)
    for pod in pods:
        assert pod.end() == 75, pod.said


@pytest.fixture
def parking_job(job: JobFolder) -> JobFolder:
    for number in range(NUM_FILES):
        lines = text_lines(LINES_PER_FILE, f"{number}-", max_tokens=120)
        job.write_input(lines, f"{number}.jsonl")
    job.write(SPEC | {"kvCache.nvme": {"hostPath": str(job.folder / "nvme"), "size": "8Mi"}})
    return job


@pytest.fixture
def expected(parking_job: JobFolder) -> dict[str, str]:
    """The answers of a run that nobody stops."""
    text = parking_job.job_file.read_bytes()
    parking_job.write(SPEC | {"engine.maxNumRequests": 16, "output": {"uri": "alone"}})
    assert parking_job.run("--quiet") == 0
    (parking_job.folder / "alone").rename(parking_job.output)
    answers = answers_of(parking_job)
    parking_job.output.rename(parking_job.folder / "alone")
    parking_job.job_file.write_bytes(text)
    return answers


def answers_of(job: JobFolder) -> dict[str, str]:
    return {custom_id: answer_text(record) for custom_id, record in job.by_id().items()}


def parked_by(job: JobFolder) -> set[str]:
    """The pods whose sets lie on the disk."""
    files = (job.folder / "nvme").glob("*/park.json")
    return {json.loads(path.read_bytes())["index"]["worker"].split("-")[0] for path in files}


def left_on_disk(job: JobFolder) -> list[Path]:
    return list((job.folder / "nvme").iterdir())


def test_another_index_goes_on_where_one_was_stopped(
    parking_job: JobFolder, expected: dict[str, str]
) -> None:
    """At once: it does not wait until the other one has been silent for a minute, nor does it take
    ranges of its own first. Nothing is computed twice."""
    with Pod(parking_job, 0, 200) as first:
        first.wait_until_it_waits()
        stop(first)
    assert parked_by(parking_job) == {"job0"}
    with Pod(parking_job, 1) as second:
        second.finish()
    assert second.num_taken_up > 0, second.said
    assert f"{second.num_taken_up} restored" in second.printed
    assert " 0 recomputed" in second.printed
    assert answers_of(parking_job) == expected
    assert not left_on_disk(parking_job)


def test_two_sets_and_the_indexes_exchanged(
    parking_job: JobFolder, expected: dict[str, str]
) -> None:
    """Two workers have parked in one folder. Two others take up one set each, whosever it was, and
    the end of the job leaves nothing."""
    with Pod(parking_job, 0, 40) as first, Pod(parking_job, 1, 40) as second:
        first.wait_until_it_waits()
        second.wait_until_it_waits()
        stop(first, second)
    assert parked_by(parking_job) == {"job0", "job1"}
    with Pod(parking_job, 2, 1) as third, Pod(parking_job, 3, 1) as fourth:
        for pod in (third, fourth):  # else the first to come could end the job alone
            pod.wait_until_it_waits()
        for pod in (third, fourth):
            pod.release()
        third.finish()
        fourth.finish()
    assert third.num_taken_up > 0, third.said
    assert fourth.num_taken_up > 0, fourth.said
    assert answers_of(parking_job) == expected
    assert not left_on_disk(parking_job)
