"""`pipemax plan FILE --hardware 8x4090`: what the job would take there, without having it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipemax_worker.cli.arguments import add_mounts, names_among, positive
from pipemax_worker.cli.detect import add_detection, detect, read_node_profile
from pipemax_worker.cli.plan_pictures import draw_best_run
from pipemax_worker.cli.plan_settings import deriver
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.engine.policies import POLICIES
from pipemax_worker.errors import JobFileError, ModelNotFoundError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.load import load_job
from pipemax_worker.performance.node_profile import (
    NodeProfile,
    hardware_names,
    load_node_profile,
)
from pipemax_worker.planner.plan import Derive, Planner, PlanOrder, PlanRow, Prices
from pipemax_worker.planner.plan_search import OURS, EngineChoice, enough_requests
from pipemax_worker.planner.plan_text import describe_plan
from pipemax_worker.planner.rivals import RIVALS
from pipemax_worker.planner.workload import (
    NAMED_DISTRIBUTIONS,
    Workload,
    draw_workload,
    read_workload_lengths,
)
from pipemax_worker.runner.validation import locate_model

_NUM_LOOKED_AT = 500
_SAMPLE_SHARE = 3

SYSTEMS = (*POLICIES, *RIVALS)
"""Policies of our engine, and systems that are simulated only."""

COMPARED = (*POLICIES, "seesaw", "vllm-tp")
"""Unless the command line says otherwise: one row a system."""

EXAMPLES = """\
examples:
  pipemax plan job.yaml --hardware 8x4090
  pipemax plan job.yaml --hardware 8x5090 --workload longbench --job-requests 1000000
  pipemax plan job.yaml --hardware 4xh200-24g --model-config FOLDER --workload w1.jsonl
  pipemax plan --detect --disk /mnt/nvme --profile here.yaml
  pipemax plan job.yaml --hardware here.yaml --plot pictures
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "plan",
        help="predict a job's speed and cost on hardware that need not be here",
        description="Drives the real engine over a simulated pipeline on a virtual clock: tokens "
        "per second, time, cost and energy, what limits the run, and every policy beside ours.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("job_file", type=Path, nargs="?", metavar="FILE", help="the InferenceJob, as YAML")
    add_mounts(parser)
    add(
        "--hardware",
        metavar="NxCARD|YAML",
        help="for example 8x4090, or a profile as --detect writes it; cards: "
        f"{', '.join(hardware_names())}",
    )
    add_detection(parser)
    add(
        "--model-config",
        type=Path,
        metavar="FOLDER",
        help="with config.json, in place of the job's model, which may be elsewhere",
    )
    add(
        "--workload",
        default="sharegpt",
        metavar="NAME|JSONL",
        help=f"lengths: {', '.join(sorted(NAMED_DISTRIBUTIONS))}, or a file as `pipemax bench` "
        "takes it (default: %(default)s)",
    )
    add(
        "--requests",
        type=positive,
        metavar="N",
        help="how many to simulate (default: three times what the GPUs hold at a time, between 500 "
        "and 3,000, or all lines of the file)",
    )
    add(
        "--sample",
        type=positive,
        metavar="N",
        help="of these, on how many to try settings (default: a third)",
    )
    add("--job-requests", type=positive, metavar="N", help="of the job (default: those simulated)")
    add(
        "--policies",
        type=names_among(SYSTEMS),
        default=COMPARED,
        metavar="A,B",
        help=f"to compare, of {','.join(SYSTEMS)} (default: {','.join(COMPARED)})",
    )
    add("--price-per-gpu-hour", type=float, metavar="USD", help="default: the profile's assumption")
    add("--price-per-kwh", type=float, default=0.0, metavar="USD", help="if not in the rent")
    add("--timeline", action="store_true", help="draw the best run's timeline in the terminal")
    add("--plot", type=Path, metavar="DIR", help="the same, and as PNG there (needs matplotlib)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.set_defaults(command=plan)


def plan(options: argparse.Namespace) -> int:
    node = _node(options)
    if options.job_file is None:
        return 0
    job = load_job(options.job_file)
    price = options.price_per_gpu_hour
    derive = deriver(job, _model(options, job), node)
    workload = _workload(options, derive)
    order = PlanOrder(
        workload=workload,
        policies=options.policies,
        prices=Prices(node.gpu.price_per_hour if price is None else price, options.price_per_kwh),
        num_sampled=options.sample or -(-len(workload.lengths) // _SAMPLE_SHARE),
        num_requests=options.job_requests,
    )
    report = Planner(derive, order, _say).plan()
    print()
    for line in describe_plan(report):
        print(line)
    if options.json is not None:
        options.json.write_bytes(report.as_json() + b"\n")
    if options.timeline or options.plot is not None:
        draw_best_run(report, derive, workload, options.plot)
    return 0


def _node(options: argparse.Namespace) -> NodeProfile:
    """What there is to plan for. Raises JobFileError."""
    if options.detect:
        return detect(options)
    if options.hardware is None or options.job_file is None:
        raise JobFileError("plan needs a job file and --hardware NxCARD, or --detect")
    if options.hardware.endswith((".yaml", ".yml")):
        return read_node_profile(Path(options.hardware))
    return load_node_profile(options.hardware)


def _model(options: argparse.Namespace, job: InferenceJob) -> ModelConfig:
    if options.model_config is not None:
        return load_model_config(options.model_config)
    folder, place = locate_model(job, options.job_file, dict(options.mount))
    if folder is None:
        raise ModelNotFoundError(
            f"{place}: not on this machine; give a folder with its config.json by --model-config"
        )
    return load_model_config(folder)


def _workload(options: argparse.Namespace, derive: Derive) -> Workload:
    if options.workload not in NAMED_DISTRIBUTIONS:
        return read_workload_lengths(Path(options.workload), options.requests)
    num_requests = options.requests
    if num_requests is None:
        some = draw_workload(options.workload, _NUM_LOOKED_AT)
        num_requests = enough_requests(derive(EngineChoice(OURS)), some)
    return draw_workload(options.workload, num_requests)


def _say(row: PlanRow) -> None:
    tier = "on" if row.has_host_tier else "off"
    rate = row.result.output_tokens_per_second
    print(
        f"simulated {row.policy}: {row.token_target} tokens a step, {row.num_micro_batches} "
        f"micro-batches, host tier {tier}, {row.kv_dtype} KV, {row.result.num_requests} requests: "
        f"{rate:,.0f} output tokens/s",
        flush=True,
    )
