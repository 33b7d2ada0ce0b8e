"""`pipemax bench`: tokens per second on this machine, compared in one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic_core import PydanticCustomError

from pipemax_worker.cli.arguments import names_among, positive
from pipemax_worker.engine.policies import POLICIES
from pipemax_worker.job.quantities import parse_quantity
from pipemax_worker.runner.bench import DEFAULT_NUM_REQUESTS, run_bench
from pipemax_worker.runner.bench_baseline import MODULES
from pipemax_worker.runner.bench_settings import BenchOptions
from pipemax_worker.runner.bench_text import describe_report

EXAMPLES = """\
examples:
  pipemax bench --model models/tiny
  pipemax bench --model models/SmolLM2-135M-Instruct --stages 1,2 --against transformers
  pipemax bench --model models/SmolLM2-135M-Instruct --rotation --json rotation.json
  pipemax bench --model FOLDER_WITH_CONFIG --dummy-weights --workload w1.jsonl --stages 4
  pipemax bench --model FOLDER_WITH_CONFIG --dummy-weights --policies vllm,tdpipe,pipemax,fused
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure tokens per second, alone or against another engine",
        description="Generates the same outputs (greedy, exact lengths, seeded) with each setting, "
        "in turns, and prints its conditions, where the time went, and ratios. Loading and a "
        "warm-up are not counted; the end of the job, when few requests are left, is.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_work(parser)
    _add_settings(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.set_defaults(command=bench)


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="in Hugging Face's format")
    add(
        "--dummy-weights",
        type=int,
        nargs="?",
        const=0,
        metavar="SEED",
        help="random weights made on the device: config.json is all that --model needs",
    )
    add(
        "--workload",
        type=Path,
        metavar="JSONL",
        help='lengths in place of prompts: {"prompt_tokens": N, "output_tokens": N, "seed": N}',
    )
    add(
        "--max-tokens-hidden",
        type=positive,
        metavar="N",
        help="tell the scheduler N for every output of --workload in place of its length",
    )
    add("--prompts", type=Path, metavar="JSONL", help="OpenAI Batch lines (default: random tokens)")
    add(
        "--requests",
        type=positive,
        metavar="N",
        help=f"how many (default: {DEFAULT_NUM_REQUESTS}, or all lines of --prompts)",
    )
    add("--seed", type=int, default=0, help="of lengths and tokens (default: %(default)s)")
    add("--rounds", type=positive, default=2, help="runs of each setting (default: %(default)s)")
    add(
        "--against",
        action="append",
        default=[],
        choices=sorted(MODULES),
        help="also run this engine on the CPU, with several settings, of which the best counts",
    )
    add(
        "--rotation",
        action="store_true",
        help="compare a roomy device tier with one of a quarter of the KV in flight, 8 micro-"
        "batches each",
    )
    add(
        "--policies",
        type=names_among(POLICIES),
        default=(),
        metavar="fused,vllm",
        help=f"compare these in the same processes: {', '.join(POLICIES)}; --micro-batches is for "
        "those that rotate",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings", "as in the job file; default: what a job gets")
    add = group.add_argument
    add("--stages", type=_stages, default=(1,), metavar="1,2", help="numbers of stages to measure")
    add(
        "--layers",
        type=_counts,
        metavar="15,17,17,15",
        help="of each stage, in place of --stages (default: by what they cost)",
    )
    add(
        "--stages-per-gpu",
        type=positive,
        default=1,
        metavar="K",
        help="neighbouring stages that share a GPU and its memory (default: %(default)s)",
    )
    add("--links", choices=("nccl", "host"), default="nccl", help="between GPUs")
    add("--micro-batches", type=positive, metavar="M")
    add("--block-tokens", type=positive, metavar="N", help="tokens of KV in a block")
    add("--kv-dtype", choices=["bfloat16", "float16", "float32", "fp8_e4m3"])
    add("--memory-limit", type=_quantity, metavar="BYTES", help="most of each GPU, e.g. 24564Mi")
    add("--memory-fraction", type=float, metavar="SHARE", help="of that for weights and KV")
    add("--device-kv", type=_quantity, metavar="BYTES", help="device tier of each stage, e.g. 64Mi")
    add("--host", type=_quantity, metavar="BYTES", help="host tier of all stages together")
    add("--max-num-requests", type=positive, metavar="N", help="in flight at a time")
    add("--max-batched-tokens", type=positive, metavar="N", help="of one step")
    add("--run-ahead", action=argparse.BooleanOptionalAction, help="schedule past unknown tokens")


def bench(options: argparse.Namespace) -> int:
    def say(line: str) -> None:
        print(line, flush=True)

    report = run_bench(
        BenchOptions(
            model_folder=options.model,
            prompts=options.prompts,
            num_requests=options.requests,
            seed=options.seed,
            stages=(len(options.layers),) if options.layers else options.stages,
            rounds=options.rounds,
            against=tuple(dict.fromkeys(options.against)),
            rotation=options.rotation,
            policies=options.policies,
            micro_batches=options.micro_batches,
            max_batched_tokens=options.max_batched_tokens,
            max_num_requests=options.max_num_requests,
            device_kv_bytes=options.device_kv,
            host_kv_bytes=options.host,
            run_ahead=options.run_ahead,
            workload=options.workload,
            hidden_max_tokens=options.max_tokens_hidden,
            dummy_weights_seed=options.dummy_weights,
            memory_limit_bytes=options.memory_limit,
            memory_fraction=options.memory_fraction,
            block_tokens=options.block_tokens,
            kv_dtype=options.kv_dtype,
            layers_per_stage=options.layers,
            stages_per_gpu=options.stages_per_gpu,
            uses_nccl=options.links == "nccl",
        ),
        say,
    )
    for line in describe_report(report):
        say(line)
    if options.json is not None:
        options.json.write_bytes(report.as_json() + b"\n")
    return 0


def _stages(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_counts(text)))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(positive, text.split(",")))


def _quantity(text: str) -> int:
    try:
        return parse_quantity(text)
    except PydanticCustomError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {error}") from error
