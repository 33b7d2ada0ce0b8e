"""A real run with input and output in a bucket, whose server fails in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.jobs import JobFolder, text_lines
from kit.processes import RunningJob
from kit.s3_proxy import Fault, FaultyProxy
from kit.s3_server import S3Server
from pipemax_worker.dataset.s3_store import S3Store, open_s3

NUM_FILES, LINES_PER_FILE = 5, 8


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Between the run and the server."""
    with FaultyProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


@pytest.fixture
def store(s3_bucket: str, s3_server: S3Server) -> S3Store:
    """The bucket with the input, without faults."""
    store = open_s3(s3_bucket, s3_server.environment)
    for number in range(NUM_FILES):
        lines = [*text_lines(LINES_PER_FILE - 1, f"{number}-"), b"no json"]
        store.put(f"in/{number}.jsonl", b"\n".join(lines))
    return store


def _write(job: JobFolder, store: S3Store, max_num_requests: int) -> None:
    bucket = store.place.removesuffix("/")
    job.write(
        {
            "input.uri": f"{bucket}/in",
            "output.uri": f"{bucket}/out",
            "engine.maxNumRequests": max_num_requests,
            "engine.lookAhead": 16,
            "sampling": {"temperature": 0, "maxTokens": 40},
        }
    )


def _records_by_key(store: S3Store) -> dict[tuple[str, int], dict[str, object]]:
    lines = [line for key in store.list("out/results/") for line in store.get(key).splitlines()]
    records = [json.loads(line) for line in lines]
    found = {(r["pipemax"]["file"], r["pipemax"]["offset"]): r for r in records}
    assert len(found) == len(records), "a line has two records"
    return found


def test_a_server_that_fails_for_a_while_costs_no_record(
    job: JobFolder, store: S3Store, proxy: FaultyProxy
) -> None:
    _write(job, store, 8)
    with RunningJob(job, hold="requests", at=1) as run:
        run.wait_for_requests(1)
        proxy.faults.extend([Fault.LOSE_ANSWER, Fault.UNAVAILABLE, Fault.CUT, None] * 2)
        run.release()
        assert run.end() == 0
        run.wait_until_gone()
    assert not proxy.faults
    assert len(_records_by_key(store)) == NUM_FILES * LINES_PER_FILE
    assert store.exists("out/manifest.json")


def test_a_server_that_fails_for_good_ends_the_run_and_the_next_one_goes_on(
    job: JobFolder, store: S3Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEMAX_STORE_RETRY_SECONDS", "0.5")
    _write(job, store, 2)
    with RunningJob(job, hold="requests", at=LINES_PER_FILE + 1) as run:
        run.wait_for_requests(LINES_PER_FILE + 1)
        proxy.constant_fault = Fault.LOSE_ANSWER
        run.release()
        assert run.end() == 74
        said = "".join(run.said)
        assert f"at {proxy.endpoint}: tried" in said
        assert "finished requests are kept" in said
        run.wait_until_gone()
    before = _records_by_key(store)
    assert 0 < len(before) < NUM_FILES * LINES_PER_FILE
    proxy.constant_fault = None
    _write(job, store, 16)
    assert job.run("--quiet") == 0
    after = _records_by_key(store)
    assert len(after) == NUM_FILES * LINES_PER_FILE
    assert {key: after[key] for key in before} == before


def test_the_answers_are_those_of_local_files(
    job: JobFolder, store: S3Store, tmp_path: Path
) -> None:
    _write(job, store, 16)
    assert job.run("--quiet") == 0
    for number in range(NUM_FILES):
        (tmp_path / f"{number}.jsonl").write_bytes(store.get(f"in/{number}.jsonl"))
    job.write({"sampling": {"temperature": 0, "maxTokens": 40}})
    assert job.run("--quiet") == 0
    bodies = {
        (r["pipemax"]["file"], r["pipemax"]["offset"]): r["response"]["body"].get("choices")
        for r in job.records()
    }
    remote = {
        key: record["response"]["body"].get("choices")  # type: ignore[index]
        for key, record in _records_by_key(store).items()
    }
    assert remote == bodies
