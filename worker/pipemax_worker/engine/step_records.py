"""Follows each message until every stage has reported it."""

from __future__ import annotations

from collections.abc import Iterable

from pipemax_worker.contract.messages import StageReport
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.engine.message import Plan


class StepRecorder:
    """Messages with rows, by sequence, and the records of those that are complete."""

    def __init__(self, num_stages: int) -> None:
        self._num_stages = num_stages
        self._open: dict[int, tuple[Plan, list[float]]] = {}
        self._records: list[StepRecord] = []

    def start(self, plan: Plan) -> None:
        if plan.stage_input.scheduled:
            self._open[plan.sequence] = (plan, [])

    def replace(self, plans: Iterable[Plan]) -> None:
        """These messages, of which nothing is reported, are in flight, and no others."""
        self._open.clear()
        for plan in plans:
            self.start(plan)

    def report(self, report: StageReport) -> Plan | None:
        """Note one stage's time; returns the message's plan."""
        known = self._open.get(report.sequence)
        if known is None:
            return None
        plan, seconds = known
        seconds.append(report.compute_seconds)
        if len(seconds) == self._num_stages:
            del self._open[report.sequence]
            self._records.append(_build_record(plan, max(seconds)))
        return plan

    def unreported(self, sequences: range) -> list[Plan]:
        """The messages among ``sequences`` that some stage has not reported."""
        return [plan for sequence, (plan, _) in self._open.items() if sequence in sequences]

    @property
    def num_open(self) -> int:
        """Messages that some stage has not reported."""
        return len(self._open)

    def take(self) -> list[StepRecord]:
        records, self._records = self._records, []
        return records


def _build_record(plan: Plan, seconds: float) -> StepRecord:
    return StepRecord(
        plan.sequence,
        plan.shape.num_tokens,
        plan.num_prefill_tokens,
        seconds,
        plan.shape.num_kv_tokens,
        plan.shape.num_requests,
    )
