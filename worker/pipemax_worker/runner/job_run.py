"""The loop of a run: fill, step, record, show; until everything has a record or a stop is asked."""

from __future__ import annotations

from collections.abc import Callable

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.engine.engine import Engine
from pipemax_worker.errors import PipemaxError, StoppedError, TooManyFailuresError
from pipemax_worker.job.spec import ErrorPolicySpec
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.feed import RequestFeed
from pipemax_worker.runner.signals import StopRequest
from pipemax_worker.telemetry.display import Display
from pipemax_worker.telemetry.progress import ProgressSnapshot

PUBLISH_INTERVAL_SECONDS = 0.25
MIN_REQUESTS_TO_JUDGE = 1000


class JobRun:
    """One run of one job on this node, from a started engine on.

    ``snapshot`` is the latest published picture: one frozen value, replaced as a whole, so that the
    HTTP thread may read it at any time.
    """

    def __init__(
        self,
        job_name: str,
        engine: Engine,
        feed: RequestFeed,
        collector: Collector,
        ledger: Ledger,
        display: Display,
        clock: Clock,
        output_place: str,
        observe_step: Callable[[StepRecord], None],
    ) -> None:
        self._job_name = job_name
        self._engine = engine
        self._feed = feed
        self._collector = collector
        self._display = display
        self._clock = clock
        self._output_place = output_place
        self._observe_step = observe_step
        self._input_bytes = sum(input_range.size_bytes for input_range in ledger.ranges)
        self._bytes_done_before = sum(
            ledger.ranges[index].size_bytes for index in ledger.done_ranges()
        )
        self._start_seconds = clock.now()
        self._published_seconds = float("-inf")
        self.snapshot = self._draw("Running")

    def run(
        self, stop: StopRequest, error_policy: ErrorPolicySpec, deadline_seconds: int | None
    ) -> ProgressSnapshot:
        """Run to the end. Whatever ends it, finished requests are written first.

        Raises StoppedError (signal, deadline), TooManyFailuresError, InputError, OutputError,
        StageDiedError.
        """
        try:
            self._loop(stop, error_policy, deadline_seconds)
        except PipemaxError:
            self._collector.flush(everything=True)
            self.publish("Failed")
            raise
        self._collector.flush(everything=True)
        self.publish("Complete" if not self._collector.num_failed else "CompletedWithErrors")
        return self.snapshot

    def _loop(
        self, stop: StopRequest, error_policy: ErrorPolicySpec, deadline_seconds: int | None
    ) -> None:
        while True:
            if stop:
                raise StoppedError(
                    f"stopped by {stop.signal_name}; what is finished is written, "
                    "and the same command continues the job"
                )
            if deadline_seconds is not None and self._elapsed() > deadline_seconds:
                raise StoppedError(
                    f"spec.deadline: {deadline_seconds} s have passed; what is finished is written"
                )
            self._feed.fill(self._engine)
            if self._feed.is_exhausted and not self._engine.has_unfinished_requests:
                break
            self._collector.add_finished(self._engine.step())
            for step in self._engine.take_step_records():
                self._observe_step(step)
            self._publish_if_due(error_policy)
        self._judge(error_policy, is_final=True)

    def _publish_if_due(self, error_policy: ErrorPolicySpec) -> None:
        if self._clock.now() - self._published_seconds < PUBLISH_INTERVAL_SECONDS:
            return
        self._collector.flush()
        self._judge(error_policy, is_final=False)
        self.publish("Running")

    def _judge(self, policy: ErrorPolicySpec, is_final: bool) -> None:
        """A hopeless job ends early: by count at once, by percent from 1,000 records on."""
        found = self._collector.counts_found
        num_failed = self._collector.num_failed + found.failed
        num_records = num_failed + self._collector.num_succeeded + found.completed
        if policy.max_failed_count is not None and num_failed > policy.max_failed_count:
            raise TooManyFailuresError(
                f"{num_failed} requests failed, errorPolicy.maxFailedCount allows "
                f"{policy.max_failed_count}: {self._worst_reasons()}"
            )
        if not is_final and num_records < MIN_REQUESTS_TO_JUDGE:
            return
        if num_records and 100 * num_failed > policy.max_failed_percent * num_records:
            raise TooManyFailuresError(
                f"{num_failed} of {num_records} requests failed, errorPolicy.maxFailedPercent "
                f"allows {policy.max_failed_percent:g} %: {self._worst_reasons()}"
            )

    def _worst_reasons(self) -> str:
        worst = self._collector.failed_reasons.most_common(3)
        return ", ".join(f"{count} x {code}" for code, count in worst) or "in an earlier run"

    def publish(self, phase: str) -> None:
        """Draw a new picture for display, metrics and progress."""
        self._published_seconds = self._clock.now()
        self.snapshot = self._draw(phase)
        self._display.update(self.snapshot)

    def _elapsed(self) -> float:
        return self._clock.now() - self._start_seconds

    def _draw(self, phase: str) -> ProgressSnapshot:
        collector, statistics = self._collector, self._engine.statistics
        elapsed = self._elapsed()
        found = collector.counts_found
        bytes_done = collector.bytes_done + collector.bytes_in_progress
        return ProgressSnapshot(
            job_name=self._job_name,
            phase=phase,
            num_done=collector.num_succeeded + collector.num_failed + found.num_records,
            num_failed=collector.num_failed + found.failed,
            num_in_flight=collector.num_pending,
            input_bytes_total=self._input_bytes,
            input_bytes_done=self._bytes_done_before + bytes_done,
            elapsed_seconds=elapsed,
            tokens_per_second=statistics.num_generated_tokens / elapsed if elapsed > 0 else 0.0,
            statistics=statistics,
            failed_reasons=dict(collector.failed_reasons),
            output_place=self._output_place,
        )
