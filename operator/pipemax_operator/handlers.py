"""kopf's side: an event is what a watch has told, and a key. Everything else is the reconciler's.

Start it with ``kopf run -m pipemax_operator.handlers --standalone``: which of several operators
acts is decided by a Lease, not by kopf's peering. No timers, no daemons, no delete handlers: each
would pin a finalizer on the InferenceJob. What has to be looked at again without an event waits in
one queue (``Requeue``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import kopf

from pipemax_operator import names
from pipemax_operator.api_server import ApiServer
from pipemax_operator.health import find_mortal_fault
from pipemax_operator.process_settings import ProcessSettings
from pipemax_operator.service import WATCHED, OperatorService
from pipemax_operator.settings import OperatorSettings

# A line for every event and every probe says nothing.
_TALKATIVE = ("kopf.objects", "kopf.activities.probe", "aiohttp.access")


class Backoffs:
    """Seconds between tries of a request of kopf's, without an end. kopf gives up its whole
    operator after the last one: an API server that is away for a minute, or a right that lacks,
    would end in a crash loop."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 3, 5, 8)
        while True:
            yield 10


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    process = ProcessSettings.from_environment()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    configure(settings, process)
    workers = OperatorSettings.from_environment()
    memo.operator = OperatorService(await ApiServer.connect(), process, workers)
    await memo.operator.start()


def configure(settings: kopf.OperatorSettings, process: ProcessSettings) -> None:
    """Keep kopf's own marks off our objects as far as it goes, and know no finalizer.

    A watch ends after ``watch_seconds`` in the API server, with a bookmark, and goes on from there
    without a new list; one that is silent for longer is dead, and opened again.
    """
    settings.persistence.finalizer = f"{names.GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=names.GROUP, key="last-handled"
    )
    settings.posting.enabled = False
    settings.watching.server_timeout = max(1, int(process.watch_seconds))
    settings.watching.inactivity_timeout = process.watch_seconds * 4 / 3
    settings.watching.client_timeout = process.watch_seconds * 2
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 250
    settings.watching.label_selectors["batch", "v1", "jobs"] = names.JOB_LABEL
    settings.watching.label_selectors["v1", "pods"] = names.JOB_LABEL
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = Backoffs()
    # Workers linger after an object's last event; a limit on them is a limit on new objects.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 1.0
    # A Role cannot watch CRDs and namespaces: the chart says so where it gives no more.
    settings.scanning.disabled = process.scanning == "disabled"


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    if (operator := memo.get("operator")) is not None:
        await operator.close()


@kopf.on.event(names.GROUP, names.VERSION, names.PLURAL)
async def inference_job_changed(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
    _tell(memo, event, names.PLURAL)


@kopf.on.event("batch", "v1", "jobs", labels={names.JOB_LABEL: kopf.PRESENT})
async def batch_job_changed(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
    _tell(memo, event, "jobs")


@kopf.on.event("v1", "pods", labels={names.JOB_LABEL: kopf.PRESENT})
async def pod_changed(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
    _tell(memo, event, "pods")


def _tell(memo: kopf.Memo, event: kopf.RawEvent, resource: str) -> None:
    document: dict[str, Any] = {**event["object"], "kind": WATCHED[resource]}
    memo.operator.changed(event["type"], document, resource)


@kopf.on.probe(id="fault")
async def probe(memo: kopf.Memo, **_: Any) -> str:
    """``/healthz``: fails when only a restart helps, and the kubelet starts the operator again."""
    if (fault := find_mortal_fault(memo.operator.vitals())) is not None:
        raise kopf.PermanentError(fault)
    return "none"
