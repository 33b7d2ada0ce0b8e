"""One look at a cluster: jobs by their status, and workers by their own pages where they answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipemax_worker.errors import UnreachableError
from pipemax_worker.top.cluster import JOB_LABEL, JobLine, PodLine, parse_jobs, parse_running_pods
from pipemax_worker.top.kubectl import Kubectl
from pipemax_worker.top.worker_page import WorkerPage, parse_worker_page

MAX_WORKERS = 16
"""Asked at one look: each takes a kubectl and a way through the API server."""
_PARALLEL = 4


class ClusterPicture(NamedTuple):
    """``pages``: by pod, of those that answered. ``notes``: what could not be had, in words."""

    jobs: tuple[JobLine, ...]
    pods: tuple[PodLine, ...] = ()
    pages: dict[str, WorkerPage] = {}  # noqa: RUF012 (never written to)
    notes: tuple[str, ...] = ()


def read_cluster(kubectl: Kubectl, namespace: str | None) -> ClusterPicture:
    """``namespace``: None for all. Raises UnreachableError if the jobs cannot be listed; what else
    cannot be read is a note, and the status alone is shown."""
    scope = ("--all-namespaces",) if namespace is None else ("--namespace", namespace)
    jobs = parse_jobs(kubectl.get("inferencejobs.pipemax.dev", *scope)["items"])
    if not any(job.phase == "Running" for job in jobs):
        return ClusterPicture(jobs)
    try:
        pods = parse_running_pods(kubectl.get("pods", *scope, "-l", JOB_LABEL)["items"])
    except UnreachableError as error:
        return ClusterPicture(jobs, notes=(f"workers are not shown: {error}",))
    pages, faults = _read_pages(kubectl, pods[:MAX_WORKERS])
    notes = []
    if faults:
        notes.append(f"{len(faults)} of {len(pods)} workers do not answer: {faults[0]}")
    if len(pods) > MAX_WORKERS:
        notes.append(f"{MAX_WORKERS} of {len(pods)} workers were asked; --namespace narrows it")
    return ClusterPicture(jobs, pods[:MAX_WORKERS], pages, tuple(notes))


def _read_pages(
    kubectl: Kubectl, pods: Sequence[PodLine]
) -> tuple[dict[str, WorkerPage], list[str]]:
    def read(pod: PodLine) -> WorkerPage | UnreachableError:
        try:
            return parse_worker_page(kubectl.run("get", "--raw", pod.progress_path), pod.name)
        except UnreachableError as error:
            return error

    with ThreadPoolExecutor(_PARALLEL) as pool:
        answers = list(pool.map(read, pods))
    told = dict(zip((f"{pod.namespace}/{pod.name}" for pod in pods), answers, strict=True))
    pages = {name: page for name, page in told.items() if isinstance(page, WorkerPage)}
    return pages, [str(one) for one in answers if isinstance(one, UnreachableError)]
