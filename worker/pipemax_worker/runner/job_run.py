"""The loop of a run: fill, step, record, show; until everything has a record or a stop is asked."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import PipemaxError, StoppedError
from pipemax_worker.job.spec import ErrorPolicySpec
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.done_ranges_totals import totals_of_done
from pipemax_worker.runner.failures import check_failures
from pipemax_worker.runner.feed import RequestFeed
from pipemax_worker.runner.recovering_engine import RecoveringEngine
from pipemax_worker.runner.signals import StopRequest
from pipemax_worker.telemetry.display import Display
from pipemax_worker.telemetry.progress import ProgressSnapshot
from pipemax_worker.telemetry.work_totals import WorkTotals

PUBLISH_INTERVAL_SECONDS = 0.25
WAIT_SECONDS = 0.2


class JobRun:
    """One run of one job on this node, from a started engine on.

    ``snapshot`` is the latest published picture: one frozen value, replaced as a whole, so that the
    HTTP thread may read it at any time. ``at_stop`` parks what is unfinished; it raises nothing.
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
        sleep: Callable[[float], None] = time.sleep,
        at_stop: Callable[[StopRequest], None] | None = None,
    ) -> None:
        self._job_name = job_name
        self._engine = engine
        self._feed = feed
        self._collector = collector
        self._display = display
        self._clock = clock
        self._output_place = output_place
        self._observe_step = observe_step
        self._sleep = sleep
        self._at_stop = at_stop
        self._input_bytes = sum(input_range.size_bytes for input_range in ledger.ranges)
        self._before = _what_is_done(ledger)
        self._num_ranges = len(ledger.ranges)
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
            is_stopped = isinstance(error, StoppedError)
            if is_stopped and self._at_stop is not None:
                self._at_stop(stop)
            self.publish("Stopped" if is_stopped else "Failed")
            if not is_stopped:  # else the next run of this node is expected soon, and goes on
                self._feed.close()
            raise
        self._feed.close()
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
            if self._feed.is_idle and not self._engine.has_unfinished_requests:
                self._collector.flush(everything=True)
                if self._feed.is_exhausted:
                    break
                # Others have the rest. Whoever falls silent is noticed by the feed.
                self._sleep(WAIT_SECONDS)
            self._collector.add_finished(self._engine.step())
            for step in self._engine.take_step_records():
                self._observe_step(step)
            if self._clock.now() - self._published_seconds >= PUBLISH_INTERVAL_SECONDS:
                self._collector.flush()
                self._judge(error_policy, is_final=False)
                self.publish("Running")
        num_known = self._before.num_ranges + self._collector.num_ranges_done
        # With other workers it is their records as well that decide: the manifest counts them.
        self._judge(error_policy, is_final=num_known == self._num_ranges)

    def _judge(self, error_policy: ErrorPolicySpec, is_final: bool) -> None:
        collector = self._collector
        reasons = self._before.failed_codes + collector.found_reasons + collector.failed_reasons
        check_failures(error_policy, self._counts, reasons, is_final)

    def publish(self, phase: str) -> None:
        """Draw a new picture for display, metrics and progress."""
        self._published_seconds = self._clock.now()
        self.snapshot = self._draw(phase)
        self._display.update(self.snapshot)

    @property
    def _counts(self) -> RecordCounts:
        """Of the whole job: this run's records and all earlier ones."""
        return self._before.counts + self._collector.counts

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
            input_bytes_done=self._before.num_bytes
            + collector.bytes_done
            + collector.bytes_in_progress,
            elapsed_seconds=elapsed,
            tokens_per_second=statistics.num_generated_tokens / elapsed if elapsed > 0 else 0.0,
            statistics=statistics,
            failed_reasons=dict(collector.failed_reasons),
            output_place=self._output_place,
            input_bytes_found=self._before.num_bytes,
            num_pipeline_restarts=self._engine.num_restarts,
            closed_ranges=self._before.totals + collector.closed_totals,
            open_ranges=collector.open_totals,
        )


class _Done(NamedTuple):
    """Of the ranges that earlier runs, or others, have completed: ``num_bytes`` of the input."""

    num_ranges: int
    counts: RecordCounts
    failed_codes: Counter[str]
    num_bytes: int
    totals: WorkTotals


def _what_is_done(ledger: Ledger) -> _Done:
    num_ranges, counts, codes, totals = 0, RecordCounts(), Counter[str](), WorkTotals()
    for summary in ledger.summaries():
        num_ranges += 1
        counts += summary.counts
        codes.update(summary.failed_codes)
        totals += totals_of_done(summary, ledger.ranges[summary.range_index].size_bytes)
    return _Done(num_ranges, counts, codes, totals.bytes_done, totals)
