"""InferenceJobs and what was observed of them, for tests of the operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pipemax_operator.observed import Observed, ObservedJob, ObservedPod, Termination
from pipemax_worker.job import InferenceJob

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)

Document = dict[str, Any]


def make_job(**spec: Any) -> InferenceJob:
    """A minimal job; ``spec`` overrides fields of its spec, in YAML's names."""
    return InferenceJob.model_validate(make_document(**spec))


def make_document(**spec: Any) -> Document:
    return {
        "apiVersion": "pipemax.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "reviews", "labels": {"team": "a"}},
        "spec": {
            "model": {"uri": "hostPath:///models/tiny"},
            "input": {"uri": "pvc://data/*.jsonl"},
            "output": {"uri": "pvc://results/reviews"},
            **spec,
        },
    }


def observe(
    job: ObservedJob | None = None, *pods: ObservedPod, status: Document | None = None, **more: Any
) -> Observed:
    return Observed(
        generation=1,
        created_at=NOW - timedelta(minutes=5),
        uid="uid-1",
        status=status or {},
        job=job,
        pods=pods,
        **more,
    )


def ended_pod(
    exit_code: int, reason: str = "", counts: dict[str, int] | None = None
) -> ObservedPod:
    phase = "Failed" if exit_code else "Succeeded"
    ended = Termination(exit_code, reason, f"{reason}: words", NOW, counts or {})
    return ObservedPod("reviews-0-abc", phase, termination=ended, node="node-1")
