"""The paper's own setting, predicted and then measured: a 70B model on eight capped GPUs.

    python tools/paper_setting.py predict predictions.json
    NCCL_P2P_DISABLE=1 python tools/paper_setting.py measure predictions.json --json figures.json
    python tools/paper_setting.py predict half.json --stages 4 --half-depth

``predict`` needs no GPU: the planner simulates each policy and says how many requests keep the
fastest of them busy for ``--seconds``. ``measure`` runs exactly those requests, one policy after
the other in the same processes, and puts each figure beside its prediction. Commit the predictions
before the first measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from make_workload import write_lengths  # noqa: E402
from pipemax_worker.cli.detect import read_node_profile  # noqa: E402
from pipemax_worker.cli.plan_settings import deriver  # noqa: E402
from pipemax_worker.contract.model_config import load_model_config  # noqa: E402
from pipemax_worker.job import InferenceJob  # noqa: E402
from pipemax_worker.job.quantities import parse_quantity  # noqa: E402
from pipemax_worker.performance.node_profile import NodeProfile, load_node_profile  # noqa: E402
from pipemax_worker.planner.plan import simulate_system  # noqa: E402
from pipemax_worker.planner.plan_search import EngineChoice  # noqa: E402
from pipemax_worker.planner.simulation import SimulationResult  # noqa: E402
from pipemax_worker.planner.workload import (  # noqa: E402
    NAMED_DISTRIBUTIONS,
    Workload,
    draw_workload,
    read_workload_lengths,
)
from pipemax_worker.runner.bench_settings import micro_batches_of  # noqa: E402

Document = dict[str, Any]

NUM_TRIED = 400
HOST, DEVICE = 1, 0
"""Tiers, as a report's copies name them."""


class Setting:
    """What is predicted and measured; kept in the file of predictions."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.policies: list[str] = document["policies"]
        self.stages: int = document["stages"]

    def model_folder(self, folder: Path) -> Path:
        """The shape's config.json in ``folder``, of half its layers where that is asked for."""
        config = json.loads((Path(self.document["shape"]) / "config.json").read_text("utf-8"))
        if self.document["halfDepth"]:
            config["num_hidden_layers"] //= 2
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    def job(self) -> InferenceJob:
        document = self.document
        engine = {"maxBatchedTokens": document["maxBatchedTokens"], "prefixSharing": False}
        return InferenceJob.model_validate(
            {
                "apiVersion": "pipemax.dev/v1alpha1",
                "kind": "InferenceJob",
                "metadata": {"name": "paper-setting"},
                "spec": {
                    "model": {"uri": "shape"},
                    "input": {"uri": "lengths.jsonl"},
                    "output": {"uri": "out"},
                    "engine": engine,
                    "parallelism": {"stagesPerNode": self.stages},
                    "kvCache": {"host": document["host"]},
                },
            }
        )

    def node(self) -> NodeProfile:
        """A card by its name, or as ``pipemax plan --detect`` has found this machine, with no more
        memory than a process may take here."""
        hardware, memory = self.document["hardware"], self.document["memory"]
        if not hardware.endswith((".yaml", ".yml")):
            return load_node_profile(f"{self.stages}x{hardware}")
        node = read_node_profile(Path(hardware))
        most = min(node.gpu.memory_bytes, parse_quantity(memory) if memory else sys.maxsize)
        return node.model_copy(update={"gpu": node.gpu.model_copy(update={"memory_bytes": most})})

    def simulate(self, policy: str, workload: Workload, folder: Path) -> SimulationResult:
        node = self.node()
        derive = deriver(self.job(), load_model_config(folder), node)
        num = micro_batches_of(policy, self.stages, self.document["microBatches"])
        choice = EngineChoice(policy, num_micro_batches=num)
        return simulate_system(derive(choice), workload)


def draw(name: str, num_requests: int) -> Workload:
    """A named workload, or the first lines of a file of lengths."""
    if name in NAMED_DISTRIBUTIONS:
        return draw_workload(name, num_requests)
    return read_workload_lengths(Path(name), num_requests)


def enough_requests(results: list[SimulationResult], seconds: float) -> int:
    """So many that the fastest policy is busy for ``seconds``."""
    return math.ceil(seconds * max(result.num_requests / result.seconds for result in results))


def predict(setting: Setting, seconds: float) -> Document:
    with tempfile.TemporaryDirectory() as scratch:
        folder = setting.model_folder(Path(scratch))
        name = setting.document["workload"]
        some = draw(name, NUM_TRIED)
        tried = [setting.simulate(policy, some, folder) for policy in setting.policies]
        workload = draw(name, max(NUM_TRIED, enough_requests(tried, seconds)))
        predictions = {}
        for policy in setting.policies:
            result = setting.simulate(policy, workload, folder)
            predictions[policy] = {
                "seconds": round(result.seconds, 1),
                "tokensPerSecond": round(result.tokens_per_second),
                "outputTokensPerSecond": round(result.output_tokens_per_second),
                "busy": [round(share, 3) for share in result.busy_ratios],
            }
            print(f"predicted {policy:<8} {predictions[policy]}", flush=True)
    return setting.document | {"requests": len(workload.lengths), "predictions": predictions}


def measure_links(num_gpus: int) -> None:
    """All cards copy at once: what the host's memory gives them together."""
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "tools" / "gpu_copies.py", "--slot-kib", "1024"],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu)},
        )
        for gpu in range(num_gpus)
    ]
    for process in processes:
        process.wait()


def bench_command(
    setting: Setting, folder: Path, workload: Path, figures: Path, stages_per_gpu: int, links: str
) -> list[str]:
    document = setting.document
    limits = ["--memory-limit", document["memory"]] if document["memory"] else []
    options = {
        "--model": folder,
        "--workload": workload,
        "--stages": setting.stages,
        "--policies": ",".join(setting.policies),
        "--micro-batches": document["microBatches"],
        "--max-batched-tokens": document["maxBatchedTokens"],
        "--host": document["host"],
        "--stages-per-gpu": stages_per_gpu,
        "--links": links,
        "--rounds": 1,
        "--json": figures,
    }
    named = [str(part) for option in options.items() for part in option]
    command = [sys.executable, "-m", "pipemax_worker.cli.main", "bench", "--dummy-weights"]
    return [*command, *named, *limits]


def measure(setting: Setting, stages_per_gpu: int, links: str) -> Document:
    with tempfile.TemporaryDirectory() as scratch:
        folder = setting.model_folder(Path(scratch))
        workload, figures = folder / "lengths.jsonl", folder / "figures.json"
        drawn = draw(setting.document["workload"], setting.document["requests"])
        write_lengths(drawn.lengths, workload)
        command = bench_command(setting, folder, workload, figures, stages_per_gpu, links)
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'worker'}:{':'.join(sys.path)}"}
        subprocess.run(command, check=True, env=environment)
        report: Document = json.loads(figures.read_text("utf-8"))
    return report


def compare(setting: Setting, report: Document) -> list[str]:
    """A line for each policy: measured, predicted, how far apart, where the time went."""
    lines = ["policy     in+out/s  predicted   error  compute  stall  loaded  stored GB/s"]
    for measured in report["pipemax"]:
        run = measured["runs"][0]
        rate = (run["num_prompt_tokens"] + run["num_generated_tokens"]) / run["seconds"]
        predicted = setting.document["predictions"][measured["name"]]["tokensPerSecond"]
        shares = [
            max(stage[field] for stage in run["stages"]) / run["seconds"]
            for field in ("compute_seconds", "stall_seconds")
        ]
        moved = {
            (copy["source"], copy["target"]): copy["num_bytes"] / run["seconds"] / 1e9
            for copy in run["copies"]
        }
        lines.append(
            f"{measured['name']:<10}{rate:>9.0f}{predicted:>11.0f}{rate / predicted - 1:>8.1%}"
            f"{shares[0]:>9.1%}{shares[1]:>7.1%}{moved.get((HOST, DEVICE), 0.0):>8.2f}"
            f"{moved.get((DEVICE, HOST), 0.0):>8.2f}"
        )
    return lines


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    predicting = commands.add_parser("predict")
    predicting.add_argument("file", type=Path)
    predicting.add_argument("--shape", type=Path, default=ROOT / "tools/shapes/Llama-2-70B")
    predicting.add_argument("--half-depth", action="store_true")
    predicting.add_argument("--hardware", default="h200-24g", help="card, or a profile (YAML)")
    predicting.add_argument("--stages", type=int, default=8)
    predicting.add_argument("--workload", default="sharegpt", help="a name, or a file of lengths")
    predicting.add_argument("--policies", default="vllm,tdpipe,pipemax,fused")
    predicting.add_argument("--micro-batches", type=int, help="of policies that rotate")
    predicting.add_argument("--max-batched-tokens", type=int, default=512)
    predicting.add_argument("--memory", default="24564Mi", help="of each GPU; empty: all")
    predicting.add_argument("--host", default="100Gi")
    predicting.add_argument("--seconds", type=float, default=80.0)
    measuring = commands.add_parser("measure")
    measuring.add_argument("file", type=Path)
    measuring.add_argument("--links", action="store_true", help="first: all cards copying at once")
    measuring.add_argument("--json", type=Path)
    measuring.add_argument("--policies", help="only these of the predicted ones")
    measuring.add_argument("--stages-per-gpu", type=int, default=1)
    measuring.add_argument("--activations", choices=("nccl", "host"), default="nccl")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    if options.command == "predict":
        setting = Setting(
            {
                "shape": os.path.relpath(options.shape),
                "halfDepth": options.half_depth,
                "hardware": options.hardware,
                "stages": options.stages,
                "workload": options.workload,
                "policies": options.policies.split(","),
                "microBatches": options.micro_batches or options.stages,
                "maxBatchedTokens": options.max_batched_tokens,
                "memory": options.memory,
                "host": options.host,
            }
        )
        predicted = predict(setting, options.seconds)
        options.file.write_text(f"{json.dumps(predicted, indent=1)}\n", encoding="utf-8")
        return 0
    setting = Setting(json.loads(options.file.read_text("utf-8")))
    if options.links:
        measure_links(setting.stages // options.stages_per_gpu)
    if options.policies:
        setting.policies = options.policies.split(",")
    report = measure(setting, options.stages_per_gpu, options.activations)
    lines = compare(setting, report)
    print(*lines, sep="\n")
    if options.json is not None:
        options.json.write_text(f"{json.dumps(report, indent=1)}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
