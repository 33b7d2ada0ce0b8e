"""What workers found out about their machines before they loaded a model, as a condition. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_operator.conditions import Condition
from pipemax_operator.exit_codes import PREFLIGHT_FAILED
from pipemax_operator.observed import Observed, ObservedPod

CONDITION = "Preflight"
PASSED, WARNINGS, FAILED = "ChecksPassed", "PreflightWarnings", "PreflightFailed"
_MAX_SHOWN = 5


def derive_condition(observed: Observed) -> Condition | None:
    """False: a worker could not start on its node, and what helps. True: the checks have passed,
    with the warnings that they gave. None: nobody has spoken; what was said before stays."""
    failed = [*_failed(observed)]
    if failed:
        return Condition(CONDITION, False, FAILED, _join(failed))
    if not any(worker.preflight for worker in observed.progress):
        return None
    warnings = [*_warnings(observed)]
    if warnings:
        return Condition(CONDITION, True, WARNINGS, _join(warnings))
    return Condition(CONDITION, True, PASSED, "this job's workers have what they need")


def _failed(observed: Observed) -> Iterator[str]:
    """Of the newest pod of each index: an older one's trouble is over."""
    newest: dict[int, ObservedPod] = {}
    for pod in observed.pods:
        known = newest.get(pod.index)
        if known is None or (pod.since and known.since and pod.since >= known.since):
            newest[pod.index] = pod
    for pod in newest.values():
        ended = pod.termination
        if ended is not None and ended.exit_code == PREFLIGHT_FAILED:
            yield f"{pod.node or pod.name}: {ended.message}"


def _warnings(observed: Observed) -> Iterator[str]:
    nodes = {pod.name: pod.node for pod in observed.pods}
    for worker in observed.progress:
        for finding in worker.preflight:
            if finding.severity == "warning":
                yield f"{nodes.get(worker.pod) or worker.pod}: {finding.describe()}"


def _join(texts: list[str]) -> str:
    """Each on a line of its own, the first ones."""
    more = [f"and {len(texts) - _MAX_SHOWN} more"] if len(texts) > _MAX_SHOWN else []
    return "\n".join([*texts[:_MAX_SHOWN], *more])
