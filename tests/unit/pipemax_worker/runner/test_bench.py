"""The whole benchmark on the tiny model, and which settings of others are measured again."""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.runner import bench
from pipemax_worker.runner.bench import orders_of_round, run_bench
from pipemax_worker.runner.bench_baseline import TRANSFORMERS_ORDERS, Order
from pipemax_worker.runner.bench_results import BaselineMeasured
from pipemax_worker.runner.bench_settings import BenchOptions
from pipemax_worker.runner.session import Session, open_session
from pipemax_worker.runner.sizing import SessionSettings

TINY = Path(__file__).parents[4] / "models" / "tiny"


def measured(order: Order, *seconds: float) -> BaselineMeasured:
    return BaselineMeasured(order.name, order.method, seconds, 100)


def test_after_the_first_round_only_the_best_of_each_method_runs() -> None:
    small, large = Order("padded", batch_size=8), Order("padded", batch_size=32)
    broken, other = Order("padded", batch_size=64), Order("continuous")
    theirs = {
        small: measured(small, 9.0),
        large: measured(large, 8.0, 20.0),
        broken: measured(broken),
        other: measured(other, 30.0),
    }
    assert orders_of_round(0, {}) == TRANSFORMERS_ORDERS
    assert orders_of_round(1, theirs) == (large, other)


def test_stages_are_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WARM_UP_REQUESTS", 1)
    lines: list[str] = []
    report = run_bench(
        BenchOptions(TINY, num_requests=3, stages=(1, 2), rounds=1, max_batched_tokens=64),
        lines.append,
    )
    one, two = report.pipemax
    assert [one.num_stages, two.num_stages] == [1, 2]
    assert one.runs[0].token_ids == two.runs[0].token_ids
    assert len(two.runs[0].stages) == 2
    assert set(report.ratios()) == {"pipemax 2 stages / pipemax 1 stage"}
    assert any(line.startswith("machine ") for line in lines)
    assert sum("tokens/s" in line for line in lines) == 2


def test_rotation_runs_on_a_quarter_of_the_kv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WARM_UP_REQUESTS", 1)
    report = run_bench(
        BenchOptions(TINY, num_requests=24, rounds=1, rotation=True), lambda line: None
    )
    roomy, tight = (one.runs[0] for one in report.pipemax)
    assert roomy.token_ids == tight.token_ids
    assert roomy.num_device_blocks >= roomy.peak_live_blocks
    assert tight.peak_live_blocks / tight.num_device_blocks == pytest.approx(4, rel=0.15)
    assert sum(copy.num_bytes for copy in tight.copies) > sum(
        copy.num_bytes for copy in roomy.copies
    )
    assert report.is_rotation


def test_policies_are_measured_in_the_same_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that served one policy serve the next, with other tiers and micro-batches."""
    monkeypatch.setattr(bench, "WARM_UP_REQUESTS", 1)
    opened: list[SessionSettings] = []

    def opening(settings: SessionSettings) -> AbstractContextManager[Session]:
        opened.append(settings)
        return open_session(settings)

    monkeypatch.setattr(bench, "open_session", opening)
    options = BenchOptions(
        TINY,
        num_requests=8,
        rounds=2,
        stages=(2,),
        micro_batches=4,
        device_kv_bytes=1024 * 1024,
        policies=("vllm", "fused"),
    )
    lines: list[str] = []
    report = run_bench(options, lines.append)
    (pipeline,) = opened
    assert pipeline.pipeline.host_kv_bytes > 0
    runs = {one.name: one.runs[1] for one in report.pipemax}
    assert [*runs] == ["vllm", "fused"]
    assert len({run.token_ids for run in runs.values()}) == 1, "whoever was there before"
    assert [bool(run.copies) for run in runs.values()] == [False, True]
    assert "fused / vllm" in report.ratios()


def test_random_weights_and_hidden_lengths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with config.json is enough; what is generated does not depend on what is told."""
    monkeypatch.setattr(bench, "WARM_UP_REQUESTS", 1)
    shutil.copy(TINY / "config.json", tmp_path)
    workload = tmp_path / "work.jsonl"
    workload.write_text(
        "".join(
            f'{{"prompt_tokens": {5 + n}, "output_tokens": {3 + n % 4}, "seed": {n}}}\n'
            for n in range(12)
        )
    )
    options = BenchOptions(
        tmp_path, rounds=1, workload=workload, dummy_weights_seed=1, max_num_requests=3
    )
    known = run_bench(options, lambda line: None)
    hidden = run_bench(
        msgspec.structs.replace(options, hidden_max_tokens=40, run_ahead=True), lambda line: None
    )
    one, other = known.pipemax[0].runs[0], hidden.pipemax[0].runs[0]
    assert one.token_ids == other.token_ids
    assert [len(tokens) for tokens in one.token_ids] == [3 + n % 4 for n in range(12)]
    assert one.steady is not None
    assert one.floor_seconds > 0
    assert known.conditions.copies is not None
    assert hidden.conditions.hidden_max_tokens == 40


def test_no_model_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        run_bench(BenchOptions(tmp_path), lambda line: None)
