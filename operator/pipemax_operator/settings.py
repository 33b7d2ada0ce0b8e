"""What the chart tells the operator about the workers that it makes. Frozen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipemax_worker.job import NVME_WRITE_BYTES_PER_SECOND


@dataclass(frozen=True)
class OperatorSettings:
    """Defaults for every worker pod.

    extra_volumes, extra_volume_mounts   added to every worker pod, as in a pod's own spec.
    run_as_user                          numeric user and group of the worker.
    memory_overhead_bytes                of a worker besides host KV and shared memory.
    nvme_write_bytes_per_second          of the nodes' disks, as ``pipemax preflight`` measures it:
                                         how long a job's grace period is that says nothing.
    gpus_for_cpu_jobs                    GPUs that the pod of a job on the CPU reserves: on nodes
                                         kept for one job at a time, or to try placement out.
    max_retries                          how often one worker that fails is started again, before
                                         the others do without it.
    poll_seconds                         how often running workers are asked for their progress.
    system_namespace, system_name        where the operator keeps objects of its own, and the name
                                         that they begin with. Without a namespace it keeps none:
                                         jobs' folders on nodes' disks are not swept then.
    sweep_queue_name                     Kueue's LocalQueue there that admits sweeps; empty: none.
    allowed_host_paths                   folders of nodes that jobs may name, and what is in them;
                                         ``{namespace}`` in one is the job's.
    allowed_images                       images that jobs may name; a ``*`` at the end: all that
                                         begin so. The operator's own may always be used.
    """

    image: str = "pipemax-worker:0.1.0"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    command: tuple[str, ...] = ("pipemax",)
    environment: dict[str, str] = field(default_factory=dict)
    extra_volumes: tuple[dict[str, Any], ...] = ()
    extra_volume_mounts: tuple[dict[str, Any], ...] = ()
    run_as_user: int = 10001
    metrics_port: int = 9400
    shared_memory_bytes: int = 8 * 2**30
    memory_overhead_bytes: int = 16 * 2**30
    nvme_write_bytes_per_second: float = NVME_WRITE_BYTES_PER_SECOND
    gpu_affinity: bool = True
    gpus_for_cpu_jobs: int = 0
    max_retries: int = 6
    poll_seconds: float = 10.0
    system_namespace: str = ""
    system_name: str = "pipemax"
    sweep_queue_name: str = ""
    allowed_host_paths: tuple[str, ...] = ("/",)
    allowed_images: tuple[str, ...] = ("*",)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> OperatorSettings:
        """``PIPEMAX_WORKER_SETTINGS``: a JSON object of these fields, written by the chart.

        Raises ValueError for a field that does not exist, has no value, or none of the right form.
        """
        given = json.loads(environment.get("PIPEMAX_WORKER_SETTINGS", "{}"))
        unknown = sorted(given.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise ValueError(f"PIPEMAX_WORKER_SETTINGS: unknown fields {', '.join(unknown)}")
        if empty := sorted(name for name, value in given.items() if value is None):
            raise ValueError(f"PIPEMAX_WORKER_SETTINGS: fields without a value {', '.join(empty)}")
        lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**(given | lists))
