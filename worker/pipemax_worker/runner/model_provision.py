"""From a job's words for its model to a folder on this machine, fetched if it has to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.errors import JobFileError, ModelNotFoundError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.resolve import HubId, S3Folder, resolve_model, resolve_place
from pipemax_worker.model_store.fetch import DownloadPlan, FetchSettings, fetch_model, locate_model
from pipemax_worker.model_store.models import CachedModel, HubModel, RemoteModel, S3Model
from pipemax_worker.model_store.progress import DownloadProgress
from pipemax_worker.model_store.watch import Watch
from pipemax_worker.runner.signals import StopRequest
from pipemax_worker.telemetry.display import Display
from pipemax_worker.telemetry.progress import format_bytes

FetchModel = Callable[[RemoteModel, FetchSettings], Path]
"""Gives the folder of a model that is not on this machine, or not yet."""


def fetch_silently(model: RemoteModel, settings: FetchSettings) -> Path:
    """A :data:`FetchModel` that nobody watches."""
    return fetch_model(model, settings, check_small_files=load_model_config).folder


def fetch_with_display(display: Display, stop: StopRequest) -> FetchModel:
    """A :data:`FetchModel` that shows its progress, and ends with StoppedError when asked to.

    A model that cannot be run is refused before its weights are fetched.
    """

    def check_stop() -> None:
        if stop:
            raise stop.as_error()

    def show(progress: DownloadProgress) -> None:
        display.status(describe_progress(progress), progress.elapsed_seconds)

    def fetch(model: RemoteModel, settings: FetchSettings) -> Path:
        watch = Watch(check_stop=check_stop, say=display.message, show_progress=show)
        found = fetch_model(model, settings, watch, check_small_files=load_model_config)
        display.message(f"model {model}: {found.folder}")
        return found.folder

    return fetch


def provide_model(
    job: InferenceJob, job_file: Path, mounts: Mapping[str, str], fetch: FetchModel
) -> Path:
    """The model's folder on this machine.

    Raises ModelNotFoundError where a path is no folder, JobFileError, and what ``fetch`` raises.
    """
    source = resolve_model_source(job, job_file, mounts)
    if isinstance(source, Path):
        return source
    return fetch(source, fetch_settings(job, job_file, mounts))


def resolve_model_source(
    job: InferenceJob, job_file: Path, mounts: Mapping[str, str]
) -> Path | RemoteModel:
    """Raises JobFileError, and ModelNotFoundError where a path is no folder."""
    spec = job.spec.model
    found = resolve_model(spec.uri, job_file.resolve().parent, mounts)
    if isinstance(found, HubId):
        return HubModel(found.repo_id, spec.revision, found.missing_path)
    if isinstance(found, S3Folder):
        return S3Model(found.uri)
    if not found.is_dir():
        raise ModelNotFoundError(f"spec.model.uri: {found}: no such folder; check model.uri")
    return found


def fetch_settings(job: InferenceJob, job_file: Path, mounts: Mapping[str, str]) -> FetchSettings:
    """``cacheDir`` as a folder of this machine. Raises JobFileError."""
    cache = job.spec.model.cache_dir
    if cache is None:
        return FetchSettings()
    place = resolve_place(cache, job_file.resolve().parent, mounts)
    if place.startswith("s3://"):
        raise JobFileError(f"spec.model.cacheDir: found {cache!r}, expected a folder of the node")
    return FetchSettings(cache_folder=Path(place))


def locate(model: RemoteModel, settings: FetchSettings) -> tuple[Path | None, str]:
    """The folder, None if the model would have to be fetched, and a line that says which it is.

    Raises ModelNotFoundError, ModelDownloadError: the run would fail too.
    """
    found = locate_model(model, settings)
    if isinstance(found, CachedModel):
        return found.folder, f"{model}: cached in {found.folder}"
    return None, describe_plan(found)


def describe_plan(plan: DownloadPlan) -> str:
    total_bytes = plan.needed.total_bytes
    found_bytes = total_bytes - plan.bytes_missing
    found = f" ({format_bytes(found_bytes)} of {format_bytes(total_bytes)} are there)"
    return (
        f"{plan.place}: not on this machine; a run fetches {format_bytes(plan.bytes_missing)} "
        f"into {plan.folder}{found if found_bytes else ''}"
    )


def describe_progress(progress: DownloadProgress) -> str:
    return (
        f"fetching {progress.place}: {format_bytes(progress.bytes_done)} of "
        f"{format_bytes(progress.bytes_total)}, {progress.bytes_per_second / 1e6:.1f} MB/s"
    )
