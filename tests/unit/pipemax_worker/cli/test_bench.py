"""The command line of the benchmark: what it parses and what it writes."""

import json
from pathlib import Path

import pytest
from pipemax_worker.cli import bench
from pipemax_worker.cli.main import build_parser, main
from pipemax_worker.runner.bench_conditions import BenchConditions
from pipemax_worker.runner.bench_results import BenchReport
from pipemax_worker.runner.bench_settings import BenchOptions

CONDITIONS = BenchConditions(
    *("A CPU", 2, 0.5, "", "3.11", {}, "abc", "tiny", "float32"), 1, (1, 1, 1), (1, 1, 1), 8, 8, 16
)


def test_layers_say_how_many_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[BenchOptions] = []

    def run(options: BenchOptions, say: object) -> BenchReport:
        asked.append(options)
        return BenchReport(CONDITIONS, ())

    monkeypatch.setattr(bench, "run_bench", run)
    monkeypatch.setattr(BenchReport, "ratios", lambda self: {})
    assert main(["bench", "--model", "m", "--layers", "15,17,17,15"]) == 0
    assert asked == [
        BenchOptions(model_folder=Path("m"), stages=(4,), layers_per_stage=(15, 17, 17, 15))
    ]


def test_everything_said_reaches_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[BenchOptions] = []

    def run(options: BenchOptions, say: object) -> BenchReport:
        asked.append(options)
        return BenchReport(CONDITIONS, ())

    monkeypatch.setattr(bench, "run_bench", run)
    monkeypatch.setattr(BenchReport, "ratios", lambda self: {"a / b": 1.25})
    words = (
        "bench --model m --prompts p.jsonl --requests 5 --seed 3 --stages 2,1,2 --rounds 4 "
        "--against transformers --against transformers --micro-batches 6 --device-kv 64Mi "
        "--host 1Gi --max-num-requests 7 --max-batched-tokens 9 --no-run-ahead --dummy-weights 4 "
        "--workload w.jsonl --max-tokens-hidden 99 --memory-limit 2Gi --memory-fraction 0.5 "
        "--block-tokens 32 --kv-dtype fp8_e4m3 --json"
    )
    assert main([*words.split(), str(tmp_path / "out.json")]) == 0
    assert asked == [
        BenchOptions(
            model_folder=Path("m"),
            prompts=Path("p.jsonl"),
            num_requests=5,
            seed=3,
            stages=(2, 1),
            rounds=4,
            against=("transformers",),
            micro_batches=6,
            max_batched_tokens=9,
            max_num_requests=7,
            device_kv_bytes=64 << 20,
            host_kv_bytes=1 << 30,
            run_ahead=False,
            workload=Path("w.jsonl"),
            hidden_max_tokens=99,
            dummy_weights_seed=4,
            memory_limit_bytes=2 << 30,
            memory_fraction=0.5,
            block_tokens=32,
            kv_dtype="fp8_e4m3",
        )
    ]
    assert json.loads((tmp_path / "out.json").read_text())["ratios"] == {"a / b": 1.25}
    assert "1.25  a / b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--requests 0", "expected 1 or more"),
        ("--stages 1,x", "invalid"),
        ("--device-kv 64mb", "did you mean"),
        ("--against vllm", "invalid choice"),
    ],
)
def test_a_wrong_word_is_explained(
    words: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["bench", "--model", "m", *words.split()])
    assert complaint in capsys.readouterr().err
