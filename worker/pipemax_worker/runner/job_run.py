"""The loop of a run: fill, step, record, show; until everything has a record or a stop is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import PipemaxError, StoppedError
from pipemax_worker.job.spec import ErrorPolicySpec
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.failures import check_failures
from pipemax_worker.runner.feed import RequestFeed
from pipemax_worker.runner.recovering_engine import RecoveringEngine
from pipemax_worker.runner.signals import StopRequest
from pipemax_worker.telemetry.display import Display
from pipemax_worker.telemetry.progress import ProgressSnapshot

PUBLISH_INTERVAL_SECONDS = 0.25


class JobRun:
    """One run of one job on this node, from a started engine on.

    ``snapshot`` is the latest published picture: one frozen value, replaced as a whole, so that the
    HTTP thread may read it at any time.
    """

    def __init__(
        self,
        job_name: str,
        engine: RecoveringEngine,
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
        self._counts_before, self._bytes_before = _what_is_done(ledger)
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
            self._collector.flush(everything=True)
        except BaseException as error:
            # What ended the run is what must be told, even if this flush fails as well.
            with contextlib.suppress(PipemaxError):
                self._collector.flush(everything=True)
            self.publish("Stopped" if isinstance(error, StoppedError) else "Failed")
            raise
        self.publish("CompletedWithErrors" if self._counts.failed else "Complete")
        return self.snapshot

    def _loop(
        self, stop: StopRequest, error_policy: ErrorPolicySpec, deadline_seconds: int | None
    ) -> None:
        while True:
            if stop:
                raise stop.as_error()
            if deadline_seconds is not None and self._elapsed_seconds() > deadline_seconds:
                raise StoppedError(
                    f"spec.deadline: {deadline_seconds} s have passed; what is finished is "
                    "written, and the same command continues the job"
                )
            self._feed.fill(self._engine)
            if self._feed.is_exhausted and not self._engine.has_unfinished_requests:
                break
            self._collector.add_finished(self._engine.step())
            for step in self._engine.take_step_records():
                self._observe_step(step)
            if self._clock.now() - self._published_seconds >= PUBLISH_INTERVAL_SECONDS:
                self._collector.flush()
                self._judge(error_policy, is_final=False)
                self.publish("Running")
        self._judge(error_policy, is_final=True)

    def _judge(self, error_policy: ErrorPolicySpec, is_final: bool) -> None:
        check_failures(error_policy, self._counts, self._collector.failed_reasons, is_final)

    def publish(self, phase: str) -> None:
        """Draw a new picture for display, metrics and progress."""
        self._published_seconds = self._clock.now()
        self.snapshot = self._draw(phase)
        self._display.update(self.snapshot)

    @property
    def _counts(self) -> RecordCounts:
        """Of the whole job: this run's records and all earlier ones."""
        return self._counts_before + self._collector.counts

    def _elapsed_seconds(self) -> float:
        return self._clock.now() - self._start_seconds

    def _draw(self, phase: str) -> ProgressSnapshot:
        collector, statistics = self._collector, self._engine.statistics
        elapsed = self._elapsed_seconds()
        counts = self._counts
        return ProgressSnapshot(
            job_name=self._job_name,
            phase=phase,
            num_done=counts.num_records,
            num_failed=counts.failed,
            num_in_flight=collector.num_pending,
            input_bytes_total=self._input_bytes,
            input_bytes_done=self._bytes_before
            + collector.bytes_done
            + collector.bytes_in_progress,
            elapsed_seconds=elapsed,
            tokens_per_second=statistics.num_generated_tokens / elapsed if elapsed > 0 else 0.0,
            statistics=statistics,
            failed_reasons=dict(collector.failed_reasons),
            output_place=self._output_place,
            input_bytes_found=self._bytes_before,
            num_pipeline_restarts=self._engine.num_restarts,
        )


def _what_is_done(ledger: Ledger) -> tuple[RecordCounts, int]:
    """Records, and bytes of the input, of the ranges that earlier runs have completed."""
    counts, num_bytes = RecordCounts(), 0
    for summary in ledger.summaries():
        counts += summary.counts
        num_bytes += ledger.ranges[summary.range_index].size_bytes
    return counts, num_bytes
