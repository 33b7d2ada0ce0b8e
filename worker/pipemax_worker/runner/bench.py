"""`pipemax bench`: measures in turns, so that a machine whose speed drifts is fair to everybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import groupby

import msgspec

from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.errors import InvariantError
from pipemax_worker.runner.bench_baseline import TRANSFORMERS_ORDERS, Baseline, Order, open_baseline
from pipemax_worker.runner.bench_conditions import BenchConditions, observe_conditions
from pipemax_worker.runner.bench_engine import EngineRun, run_engine, run_session
from pipemax_worker.runner.bench_floor import CopySpeeds, measure_copies
from pipemax_worker.runner.bench_results import BaselineMeasured, BenchReport, Measured
from pipemax_worker.runner.bench_settings import (
    ROTATION_MICRO_BATCHES,
    BenchOptions,
    around,
    build_settings,
    of_policies,
    quarter_blocks,
    with_device_blocks,
    with_roomy_tiers,
)
from pipemax_worker.runner.bench_text import (
    describe_baseline_run,
    describe_conditions,
    describe_run,
)
from pipemax_worker.runner.bench_work import BenchWork, make_work, read_work
from pipemax_worker.runner.bench_workload import read_workload
from pipemax_worker.runner.session import change_settings, open_session
from pipemax_worker.runner.sizing import SessionSettings

DEFAULT_NUM_REQUESTS = 64
WARM_UP_REQUESTS = 8
WARM_UP_SEED = 1_000_003

Say = Callable[[str], None]


def run_bench(options: BenchOptions, say: Say) -> BenchReport:
    """Measure what ``options`` ask for; ``say`` gets a line for each condition and each run.

    Raises ModelNotFoundError, UnsupportedModelError, InputNotFoundError, InputError, JobFileError,
    KVTierError, StageDiedError.
    """
    config = load_model_config(options.model_folder)
    work = load_work(options, config)
    bench = _Bench(config, work, say)
    if options.policies:
        return bench.measure_policies(options)
    if options.rotation:
        return bench.measure_rotation(options)
    return bench.measure_stages(options)


def load_work(options: BenchOptions, config: ModelConfig) -> BenchWork:
    if options.workload is not None:
        return read_workload(
            options.workload, config, options.num_requests, options.hidden_max_tokens
        )
    if options.prompts is None:
        num_requests = options.num_requests or DEFAULT_NUM_REQUESTS
        return make_work(config, num_requests, options.seed)
    return read_work(
        options.prompts, options.model_folder, config, options.num_requests, options.seed
    )


class _Bench:
    def __init__(self, config: ModelConfig, work: BenchWork, say: Say) -> None:
        self._config, self._work, self._say = config, work, say
        self._warm_up = make_work(config, WARM_UP_REQUESTS, WARM_UP_SEED)
        self._speeds: CopySpeeds | None = None

    def measure_stages(self, options: BenchOptions) -> BenchReport:
        """Our pipelines, in turns with each other and with the other engines."""
        settings = {
            _stages_name(num_stages): build_settings(options, self._config, num_stages)
            for num_stages in options.stages
        }
        conditions = self._begin(next(iter(settings.values())))
        ours: dict[str, list[EngineRun]] = {name: [] for name in settings}
        theirs: dict[Order, BaselineMeasured] = {}
        with ExitStack() as stack:
            processes = [
                stack.enter_context(open_baseline(engine, options.model_folder, self._work))
                for engine in options.against
            ]
            for process in processes:
                self._warm_up_baseline(process)
            for number in range(options.rounds):
                self._run_all(settings, ours)
                for process in processes:
                    for _, orders in groupby(orders_of_round(number, theirs), _method_of):
                        for order in orders:
                            theirs[order] = self._run_baseline(process, order, theirs.get(order))
                        self._run_all(settings, ours)
        return BenchReport(conditions, _measured(settings, ours), tuple(theirs.values()))

    def measure_rotation(self, options: BenchOptions) -> BenchReport:
        """A roomy device tier, and one of a quarter of the KV that is in flight in it."""
        micro_batches = options.micro_batches or ROTATION_MICRO_BATCHES
        asked = build_settings(options, self._config, options.stages[0], micro_batches)
        roomy = with_roomy_tiers(asked, self._work)
        conditions = self._begin(roomy)
        self._say(f"rotation  {micro_batches} micro-batches, {_stages_name(options.stages[0])}")
        first = self._run("roomy device tier", roomy)
        num_blocks = self._work.num_blocks(roomy.pipeline.block_tokens) + len(self._work)
        tight = with_device_blocks(
            roomy, quarter_blocks(first.peak_live_blocks, roomy, self._work), num_blocks
        )
        settings = {"roomy device tier": roomy, "quarter device tier": tight}
        ours: dict[str, list[EngineRun]] = {name: [] for name in settings}
        for _ in range(options.rounds):
            self._run_all(settings, ours)
        return BenchReport(conditions, _measured(settings, ours), is_rotation=True)

    def measure_policies(self, options: BenchOptions) -> BenchReport:
        """In turns through the same processes: loading weights and pinning memory is done once."""
        settings = of_policies(options, self._config, options.stages[0])
        pipeline = around(settings.values())
        conditions = self._begin(pipeline)
        ours: dict[str, list[EngineRun]] = {policy: [] for policy in settings}
        with open_session(pipeline) as session:
            whole = session.geometry
            for _ in range(options.rounds):
                for policy, one in settings.items():
                    session = change_settings(session, one, whole)
                    run = run_session(session, one, self._work, self._warm_up, self._speeds)
                    self._say_run(policy, run)
                    ours[policy].append(run)
        return BenchReport(conditions, _measured(settings, ours))

    def _begin(self, settings: SessionSettings) -> BenchConditions:
        conditions = self._look(settings)
        for line in describe_conditions(conditions):
            self._say(line)
        return conditions

    def _look(self, settings: SessionSettings) -> BenchConditions:
        """What the machine is, and how fast it copies."""
        device = settings.pipeline.device
        self._speeds = measure_copies("cuda:0" if device == "cuda" else "cpu")
        conditions = observe_conditions(settings, self._config, self._work)
        return msgspec.structs.replace(
            conditions,
            copies=self._speeds,
            memory_limit_bytes=settings.pipeline.memory_limit_bytes,
        )

    def _run_all(
        self, settings: dict[str, SessionSettings], runs: dict[str, list[EngineRun]]
    ) -> None:
        for name, one in settings.items():
            runs[name].append(self._run(name, one))

    def _run(self, name: str, settings: SessionSettings) -> EngineRun:
        run = run_engine(settings, self._work, self._warm_up, self._speeds)
        self._say_run(name, run)
        return run

    def _say_run(self, name: str, run: EngineRun) -> None:
        self._say(f"  {name:<34} {describe_run(run)}")

    def _warm_up_baseline(self, process: Baseline) -> None:
        for _, orders in groupby(TRANSFORMERS_ORDERS, _method_of):
            process.run(msgspec.structs.replace(next(orders), num_requests=2))

    def _run_baseline(
        self, process: Baseline, order: Order, known: BaselineMeasured | None
    ) -> BaselineMeasured:
        answer = process.run(order)
        name = f"transformers {order.name}"
        num_tokens = self._work.num_output_tokens
        if answer.error is not None:
            self._say(f"  {name}: {answer.error}")
            return BaselineMeasured(order.name, order.method, (), num_tokens, error=answer.error)
        if tuple(map(len, answer.token_ids)) != self._work.max_tokens:
            raise InvariantError(f"{name}: an output has another length than was asked for")
        self._say(f"  {name:<34} {describe_baseline_run(num_tokens, answer.seconds)}")
        seconds = (*(known.seconds if known else ()), answer.seconds)
        return BaselineMeasured(order.name, order.method, seconds, num_tokens, answer.token_ids)


def orders_of_round(number: int, theirs: dict[Order, BaselineMeasured]) -> Sequence[Order]:
    """All settings in the first round, then only the best of each method."""
    if number == 0:
        return TRANSFORMERS_ORDERS
    best: dict[str, Order] = {}
    for order, measured in theirs.items():
        known = best.get(order.method)
        if measured.seconds and (
            known is None or measured.tokens_per_second > theirs[known].tokens_per_second
        ):
            best[order.method] = order
    return tuple(best.values())


def _method_of(order: Order) -> str:
    return order.method


def _stages_name(num_stages: int) -> str:
    return f"pipemax {num_stages} stage{'s' if num_stages > 1 else ''}"


def _measured(
    settings: dict[str, SessionSettings], runs: dict[str, list[EngineRun]]
) -> tuple[Measured, ...]:
    return tuple(
        Measured(name, one.pipeline.num_stages, tuple(runs[name])) for name, one in settings.items()
    )
