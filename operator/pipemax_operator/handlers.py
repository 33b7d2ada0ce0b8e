"""kopf's side: an event is only a key. Everything else is the reconciler's.

Start it with ``kopf run -m pipemax_operator.handlers``. No timers, no daemons, no delete handlers:
each would pin a finalizer on the InferenceJob. What has to be looked at again without an event
waits in one queue (``Requeue``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from datetime import UTC, datetime
from typing import Any

import kopf
from prometheus_client import start_http_server

from pipemax_operator import names
from pipemax_operator.cluster import KubernetesCluster
from pipemax_operator.metrics import OperatorMetrics
from pipemax_operator.reconciler import Reconciler
from pipemax_operator.requeue import Requeue
from pipemax_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

METRICS_PORT_VARIABLE = "PIPEMAX_METRICS_PORT"
SCANNING_VARIABLE = "PIPEMAX_SCANNING"

# A queue that has not turned for this long hangs; it turns every few seconds, busy or not.
MAX_SILENCE_SECONDS = 60.0


class Operator:
    """What lives as long as the process."""

    def __init__(self, cluster: KubernetesCluster, settings: OperatorSettings) -> None:
        self.cluster = cluster
        self.metrics = OperatorMetrics()
        self.reconciler = Reconciler(cluster, settings, lambda: datetime.now(UTC), self.metrics)
        self.requeue = Requeue(self._reconcile, time.monotonic)
        self.task = asyncio.create_task(self.requeue.run())
        port = os.environ.get(METRICS_PORT_VARIABLE)
        self._server = (
            start_http_server(int(port), registry=self.metrics.registry)[0] if port else None
        )

    def changed(self, namespace: str | None, name: str) -> None:
        """An event about a job or one of its children."""
        self.metrics.note_event()
        self.requeue.now((namespace or "", name))

    async def _reconcile(self, key: tuple[str, str]) -> float | None:
        return await self.reconciler.reconcile(*key)

    async def close(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        await self.cluster.close()


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Keep kopf's own marks off our objects as far as it goes, and know no finalizer."""
    settings.persistence.finalizer = f"{names.GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=names.GROUP, key="last-handled"
    )
    settings.peering.priority = random.randint(0, 32767)
    settings.posting.enabled = False
    settings.watching.server_timeout, settings.watching.client_timeout = 600, 660
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.queueing.worker_limit = 50
    # A Role cannot watch CRDs and namespaces: the chart says so where it gives no more.
    settings.scanning.disabled = os.environ.get(SCANNING_VARIABLE) == "disabled"
    memo.operator = Operator(await KubernetesCluster.connect(), OperatorSettings.from_environment())


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    await memo.operator.close()


@kopf.on.event(names.GROUP, names.VERSION, names.PLURAL)
async def inference_job_changed(
    name: str, namespace: str | None, memo: kopf.Memo, **_: Any
) -> None:
    memo.operator.changed(namespace, name)


@kopf.on.event("batch", "v1", "jobs", labels={names.JOB_LABEL: kopf.PRESENT})
async def batch_job_changed(
    labels: kopf.Labels, namespace: str | None, memo: kopf.Memo, **_: Any
) -> None:
    memo.operator.changed(namespace, labels[names.JOB_LABEL])


@kopf.on.event("v1", "pods", labels={names.JOB_LABEL: kopf.PRESENT})
async def pod_changed(
    labels: kopf.Labels, namespace: str | None, memo: kopf.Memo, **_: Any
) -> None:
    memo.operator.changed(namespace, labels[names.JOB_LABEL])


@kopf.on.probe(id="last_reconcile_age_seconds")
async def last_reconcile_age(memo: kopf.Memo, **_: Any) -> float:
    """How long ago the queue last turned. Raises when it hangs: then the probe fails, and the
    kubelet starts the operator again."""
    age = float(memo.operator.requeue.idle_seconds())
    if age > MAX_SILENCE_SECONDS:
        raise kopf.PermanentError(f"the queue has not turned for {age:.0f} s")
    return age
