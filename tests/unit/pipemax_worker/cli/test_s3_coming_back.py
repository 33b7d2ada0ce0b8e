"""A retry, and another place's records, where the places are in buckets."""

from __future__ import annotations

from typing import Any

import pytest
from kit.fake_run import FakeSessions
from kit.flaky_engine import FlakyEngine
from kit.jobs import JobFolder, text_lines
from pipemax_worker.dataset.manifest import Manifest, read_manifest
from pipemax_worker.dataset.records import read_records
from pipemax_worker.dataset.s3_store import open_s3
from pipemax_worker.runner import run as run_module


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FlakyEngine:
    engine = FlakyEngine()
    engine.fails = lambda request: request.key.offset > 300
    monkeypatch.setattr(run_module, "open_session", FakeSessions(engine))
    return engine


def run(job: JobFolder, *arguments: str, **fields: Any) -> None:
    job.write({name.replace("_", "."): value for name, value in fields.items()})
    assert job.run("--quiet", *arguments) == 0


def manifest_at(place: str) -> Manifest:
    """After a look at every segment that it names."""
    store = open_s3(place)
    manifest = read_manifest(store)
    assert manifest is not None
    heads = []
    for segment in manifest.segments:
        data = store.get(segment.key)
        assert len(data) == segment.size_bytes
        heads += [head for head, _ in read_records(segment.key, data)]
    assert len(heads) == len({head.pipemax.offset for head in heads}) == 12
    return manifest


def test_a_retry_in_a_bucket(job: JobFolder, engine: FlakyEngine, s3_bucket: str) -> None:
    job.write_input(text_lines(12))
    run(job, output_uri=s3_bucket)
    failed = manifest_at(s3_bucket).counts.failed
    assert 0 < failed < 12
    engine.seen.clear()
    engine.fails = lambda _: False
    run(job, "--retry-failed", output_uri=s3_bucket)
    assert len(engine.seen) == failed
    assert (manifest_at(s3_bucket).counts.failed, manifest_at(s3_bucket).num_retries) == (0, 1)


def test_records_of_a_bucket_for_another_one(
    job: JobFolder, engine: FlakyEngine, s3_bucket: str
) -> None:
    job.write_input(text_lines(12))
    first, second = f"{s3_bucket}/first", f"{s3_bucket}/second"
    run(job, output_uri=first)
    failed = manifest_at(first).counts.failed
    engine.seen.clear()
    engine.fails = lambda _: False
    run(job, output_uri=second, resumeFrom=first)
    assert len(engine.seen) == failed
    manifest = manifest_at(second)
    assert (manifest.num_copied, manifest.resumed_from) == (12 - failed, (first,))
