"""A small cluster at work, for the pictures: three jobs, of which two run for real on this CPU.

*reviews* goes on and on, with tiers so small that KV moves down to NVMe and back; one of its stages
is killed on the way. *captions* waits for its turn, has lines that fail, and gets done.
*translations* wants more GPUs than any node has.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.stand_in_node import StandInNode
from kit.live_prometheus import LivePrometheus, Target, running_prometheus
from kit.ports import free_port
from kit.tools import ROOT
from kit.watched_jobs import WatchedJob, Worker, apply, find_pod, running_worker, target_of
from pipemax_operator.crd import build_crd

RULES = ROOT / "manifests" / "monitoring" / "prometheus-rules.yaml"
NAMESPACE = "batch"

REVIEWS = WatchedJob(
    "reviews",
    num_copies=12,
    deadline="40m",
    engine={
        **{"microBatches": 4, "maxNumRequests": 256, "deviceKvCache": "6400Ki"},
        "prefixSharing": False,
    },
    kv_cache={"host": "20Mi", "nvme": {"emptyDir": {}, "size": "64Mi"}},
)
CAPTIONS = WatchedJob(
    "captions",
    address="127.0.0.2",
    wrong_line_every=12,
    deadline="30m",
    engine={"microBatches": 2, "maxNumRequests": 48, "deviceKvCache": "6400Ki"},
    kv_cache={"host": "8Mi"},
)
TRANSLATIONS = WatchedJob("translations", num_stages=16)

CAPTIONS_AFTER, KILL_AFTER = 0.2, 0.6
"""Shares of the whole time."""


@contextlib.contextmanager
def running_scene(folder: Path, duration_seconds: float) -> Iterator[LivePrometheus]:
    """What scraped it, when ``duration_seconds`` are over; all ends with the block."""
    port, pages = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        plane, nodes = _start_cluster(folder, stack)
        environment = {
            "PIPEMAX_WORKER_SETTINGS": json.dumps({"poll_seconds": 0.5, "metrics_port": port}),
            "PIPEMAX_METRICS_PORT": str(pages),
        }
        stack.enter_context(running_operator(plane, folder, NAMESPACE, environment))
        apply(plane, NAMESPACE, [REVIEWS, CAPTIONS, TRANSLATIONS])
        pods = {job.name: find_pod(plane, NAMESPACE, job.name) for job in (REVIEWS, CAPTIONS)}
        targets = [
            *(target_of(job, port, NAMESPACE, pods[job.name]) for job in (REVIEWS, CAPTIONS)),
            Target("operator", pages, {"namespace": "pipemax-system"}, keeps_labels=True),
        ]
        prometheus = stack.enter_context(running_prometheus(folder, targets, RULES))
        play = _Play(stack, nodes, port, folder, pods)
        play.run(duration_seconds)
        yield prometheus


def _start_cluster(
    folder: Path, stack: contextlib.ExitStack
) -> tuple[ControlPlane, dict[str, StandInNode]]:
    plane = ControlPlane(folder)
    stack.callback(plane.stop)
    plane.start()
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(build_crd()))
    plane.wait_for_kinds("crd/inferencejobs.pipemax.dev")
    plane.kubectl("create", "namespace", NAMESPACE)
    nodes = {name: StandInNode(plane, name, gpus=2) for name in ("node-a", "node-b")}
    for node in nodes.values():
        node.join()
        stack.callback(node.leave)
    return plane, nodes


class _Play:
    """Who does what, and when."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        nodes: dict[str, StandInNode],
        port: int,
        folder: Path,
        pods: dict[str, dict[str, object]],
    ) -> None:
        self._stack, self._nodes, self._port, self._folder = stack, nodes, port, folder
        self._pods = pods

    def run(self, duration_seconds: float) -> None:
        began = time.monotonic()
        reviews = self._start(REVIEWS)
        self._sleep_until(began + CAPTIONS_AFTER * duration_seconds)
        captions = self._start(CAPTIONS)
        self._sleep_until(began + KILL_AFTER * duration_seconds, captions)
        os.kill(reviews.stage_ids()[-1], signal.SIGKILL)
        self._sleep_until(began + duration_seconds, captions)

    def _start(self, job: WatchedJob) -> Worker:
        worker = self._stack.enter_context(running_worker(job, self._port, self._folder / job.name))
        node, pod = self._place_of(job)
        node.run_pod(NAMESPACE, pod, job.address)
        return worker

    def _place_of(self, job: WatchedJob) -> tuple[StandInNode, str]:
        pod = self._pods[job.name]
        return self._nodes[pod["spec"]["nodeName"]], pod["metadata"]["name"]  # type: ignore[index]

    def _sleep_until(self, deadline: float, captions: Worker | None = None) -> None:
        """The pod of *captions* ends with its process."""
        is_ended = captions is None or captions.exit_code is not None
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if not is_ended and captions is not None and captions.exit_code is not None:
                node, pod = self._place_of(CAPTIONS)
                node.end_pod(NAMESPACE, pod, captions.exit_code, captions.last_words)
                is_ended = True
