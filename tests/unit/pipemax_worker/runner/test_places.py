"""Model, input, output and NVMe folder of a job, as paths of this machine."""

from pathlib import Path
from typing import Any

import pytest
from kit.jobs import JobFolder
from pipemax_worker.errors import JobFileError, ModelNotFoundError
from pipemax_worker.job.load import load_job
from pipemax_worker.model_store.fetch import FetchSettings
from pipemax_worker.model_store.models import RemoteModel
from pipemax_worker.runner.places import Places, resolve_output, resolve_places


def fetch_nothing(model: RemoteModel, settings: FetchSettings) -> Path:
    raise AssertionError(f"fetched {model}")


def places_of(job: JobFolder, changes: dict[str, Any], mounts: dict[str, str]) -> Places:
    job_file = job.write(changes)
    return resolve_places(load_job(job_file), job_file, mounts, fetch_nothing)


def test_relative_places_start_at_the_job_file(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    places = places_of(job, {"input": {"uris": ["a.jsonl", "/data/b.jsonl"]}}, {})
    assert places.model_folder == job.model_folder
    assert places.inputs == (str(job.folder / "a.jsonl"), "/data/b.jsonl")
    assert places.output == str(job.output)
    assert places.nvme_folder is None


def test_claims_are_where_they_are_mounted(job: JobFolder) -> None:
    changes = {
        "input": {"uri": "pvc://data/reviews/*.jsonl"},
        "output": {"uri": "pvc://results/reviews"},
        "kvCache.nvme": {"persistentVolumeClaim": {"claimName": "disk"}, "size": "1Mi"},
    }
    places = places_of(job, changes, {"data": "/mnt/data", "results": "/mnt/r", "disk": "/nvme"})
    assert places.inputs == ("/mnt/data/reviews/*.jsonl",)
    assert places.output == "/mnt/r/reviews"
    assert places.nvme_folder == Path("/nvme")
    job_file = job.job_file
    assert resolve_output(load_job(job_file), job_file, {"results": "/mnt/r"}) == "/mnt/r/reviews"


def test_buckets_stay_as_they_are(job: JobFolder) -> None:
    changes = {"input": {"uris": ["a.jsonl", "s3://b-1/in/*.jsonl"]}, "output.uri": "s3://b-2/out"}
    places = places_of(job, changes, {})
    assert places.inputs == (str(job.folder / "a.jsonl"), "s3://b-1/in/*.jsonl")
    assert places.output == "s3://b-2/out"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input.uri": "pvc://data/a.jsonl"}, "--mount data=PATH"),
        ({"output.uri": "pvc://data/out"}, "--mount data=PATH"),
        (
            {"model.uri": "org/name", "model.cacheDir": "pvc://cache", "output.uri": "pvc://out"},
            "--mount out=PATH",
        ),
    ],
)
def test_places_that_cannot_be_reached_from_here(
    job: JobFolder, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(JobFileError, match=named):
        places_of(job, changes, {})


def test_a_model_from_afar_is_fetched_once_all_else_is_found(job: JobFolder) -> None:
    job_file = job.write({"model.uri": "s3://bucket/model"})
    places = resolve_places(load_job(job_file), job_file, {}, lambda model, _: Path(f"/{model}"))
    assert places.model_folder == Path("/s3://bucket/model")


def test_a_model_folder_that_is_not_there(job: JobFolder) -> None:
    (job.folder / "file").touch()
    for uri in ("/nowhere/model", "./file"):
        with pytest.raises(ModelNotFoundError, match="no such folder"):
            places_of(job, {"model.uri": uri}, {})
