"""A workload of lengths as a real job: JSONL through reader, ledger and writer; random weights.

    python tools/gpu_job.py --model tools/shapes/Qwen2.5-7B --workload w1.jsonl --requests 600
    python tools/gpu_job.py --model models/tiny --workload w1.jsonl --requests 8 --longest 60  # CPU

`pipemax bench --dummy-weights` with the same settings runs the same requests without a job around
them: the ratio of the two is what the job's way costs. The model's folder has its config.json and
the tiny model's tokenizer with words added, so that every token is text; its weights are made on
the GPU, as the benchmark's are (no job can ask for that: this tool starts the run itself).

Rows: output tokens a second, records, joules a token by the ledger, and which of the metrics that
the dashboards' GPU panels ask for were on /metrics while it ran. Exits 1 if a line has no record.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.model_config import load_model_config  # noqa: E402
from pipemax_worker.runner.bench_work import BenchWork  # noqa: E402
from pipemax_worker.runner.bench_workload import read_workload  # noqa: E402

Json = dict[str, Any]

SPEED = re.compile(r"speed\s+([\d.]+) generated tokens/s over (.*)")
GPU_METRIC = re.compile(r"pipemax_gpu_\w+")
SAMPLE = re.compile(r"^(pipemax_\w+)(?:\{[^}]*\})? (\S+)", re.MULTILINE)
LOOK_SECONDS = 1.0
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file: a job looks whether the weights are there before it starts."""


@dataclass
class Seen:
    """What the run's HTTP pages said: the last while tokens were made, and all that /metrics said,
    with the time of each (``tools/gpu_panels.py`` shows them to a Prometheus)."""

    metrics: str = ""
    progress: Json = field(default_factory=dict)
    scrapes: list[tuple[float, str]] = field(default_factory=list)


def write_model(shape: Path, folder: Path) -> Path:
    """The shape with a tokenizer whose every id is a word. Returns ``folder``."""
    folder.mkdir()
    shutil.copyfile(shape / "config.json", folder / "config.json")
    config = load_model_config(folder)
    tiny = ROOT / "models" / "tiny"
    shutil.copyfile(tiny / "tokenizer_config.json", folder / "tokenizer_config.json")
    tokenizer = json.loads((tiny / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    for token_id in range(len(vocabulary), config.vocab_size):
        vocabulary[f"▁w{token_id}"] = token_id
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(NO_TENSORS)
    return folder


def write_prompts(work: BenchWork, path: Path) -> None:
    """Token ids, and exactly as many tokens back as the workload says."""
    with path.open("w", encoding="utf-8") as file:
        for number, (prompt, count) in enumerate(zip(work.prompts, work.max_tokens, strict=True)):
            body = {
                "prompt": prompt,
                "max_tokens": count,
                "min_tokens": count,
                "ignore_eos": True,
                "temperature": 0,
            }
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/completions"}
            file.write(json.dumps(line | {"body": body}) + "\n")


def job_of(options: argparse.Namespace) -> Json:
    """Places are relative to the job's file. What is not asked for is left to the job's defaults,
    as in the benchmark."""
    engine = {
        "device": options.device,
        "maxNumRequests": options.max_num_requests,
        "maxBatchedTokens": options.max_batched_tokens,
        "memoryFraction": options.memory_fraction,
    }
    spec: Json = {
        "model": {"uri": "model", "name": "random"},
        "input": {"uri": "prompts.jsonl"},
        "output": {"uri": "out"},
        "engine": {name: value for name, value in engine.items() if value is not None},
        "parallelism": {"stagesPerNode": options.stages},
    }
    if options.host is not None:
        spec["kvCache"] = {"host": options.host}
    return {
        "apiVersion": "pipemax.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "gpu-job"},
        "spec": spec,
    }


def limited(work: BenchWork, longest: int | None) -> BenchWork:
    """No prompt and no answer longer than ``longest``: for a model with a short context."""
    if longest is None:
        return work
    return BenchWork(
        tuple(prompt[:longest] for prompt in work.prompts),
        tuple(min(count, longest) for count in work.max_tokens),
    )


def write_all(options: argparse.Namespace, folder: Path) -> Path:
    """The job's file, with everything it names beside it."""
    model = write_model(options.model, folder / "model")
    config = load_model_config(model)
    if options.longest is not None:  # lengths are cut before they are held against the context
        config = msgspec.structs.replace(config, max_position_embeddings=1 << 20)
    work = read_workload(options.workload, config, options.requests, None)
    write_prompts(limited(work, options.longest), folder / "prompts.jsonl")
    job_file = folder / "job.yaml"
    job_file.write_text(json.dumps(job_of(options)), encoding="utf-8")  # JSON is YAML
    return job_file


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def look(port: int, seen: Seen) -> None:
    """Keep the pages as they are while tokens are made: at the end power has fallen already."""
    pages = {}
    for page in ("progress", "metrics"):
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer,
        ):
            pages[page] = answer.read().decode()
    if pages.get("metrics"):
        seen.scrapes.append((time.time(), pages["metrics"]))
    progress = json.loads(pages.get("progress") or "{}")
    if progress.get("requests", {}).get("inFlight") and "metrics" in pages:
        seen.progress, seen.metrics = progress, pages["metrics"]


def run_watched(command: list[str], port: int) -> tuple[int, str, Seen]:
    """Exit code and what the run printed; its progress goes to our own standard error."""
    seen = Seen()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while process.poll() is None:
            look(port, seen)
            time.sleep(LOOK_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
        printed, _ = process.communicate()
    return process.returncode, printed, seen


def panel_metrics() -> set[str]:
    """What the dashboards' GPU panels ask the workers for."""
    files = (ROOT / "charts" / "pipemax" / "dashboards").glob("*.json")
    return {name for file in files for name in GPU_METRIC.findall(file.read_text("utf-8"))}


def with_data(exposition: str) -> set[str]:
    """Metrics that have a sample above zero."""
    return {name for name, value in SAMPLE.findall(exposition) if float(value) > 0}


def status_of(job_file: Path) -> Json:
    """As the ledger has it, after the run."""
    command = [sys.executable, "-m", "pipemax_worker.cli.main", "status", "--json", str(job_file)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    status: Json = json.loads(said)
    return status


def figures_of(job_file: Path, printed: str, seen: Seen) -> Json:
    status, speed = status_of(job_file), SPEED.search(printed)
    generated, joules = status["tokens"]["generated"], status["jobEnergy"]["joules"]
    wanted, there = panel_metrics(), with_data(seen.metrics)
    progress = seen.progress
    watts, rate = progress.get("powerWatts"), progress.get("tokensPerSecond")
    lines = len((job_file.parent / "prompts.jsonl").read_bytes().splitlines())
    return {
        "lines": lines,
        "records": status["requests"]["done"],
        "failed": status["requests"]["failed"],
        "generated_tokens": generated,
        "output_tokens_per_second": float(speed[1]) if speed else None,
        "joules": joules,
        "joules_per_token": joules / generated if joules and generated else None,
        "watts_at_the_end": watts,
        "steady_joules_per_token": watts / rate if watts and rate else None,
        "panel_metrics": sorted(wanted),
        "panel_metrics_without_data": sorted(wanted - there),
    }


def run_child(job_file: str, port: str, seed: str, memory_limit: str) -> int:
    """`pipemax run` with random weights."""
    from pipemax_worker.cli.main import main as pipemax
    from pipemax_worker.job.quantities import parse_quantity
    from pipemax_worker.runner import run as runner

    derive = runner.derive_session_settings

    def with_random_weights(*arguments: Any) -> Any:
        settings = derive(*arguments)
        pipeline = msgspec.structs.replace(
            settings.pipeline,
            dummy_weights_seed=int(seed),
            memory_limit_bytes=parse_quantity(memory_limit) if memory_limit else None,
        )
        return msgspec.structs.replace(settings, pipeline=pipeline)

    runner.derive_session_settings = with_random_weights
    return pipemax(["run", job_file, "--port", port])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="with a config.json")
    add("--workload", type=Path, required=True, metavar="JSONL", help="as `pipemax bench` takes it")
    add("--requests", type=int, help="default: all lines")
    add("--longest", type=int, metavar="TOKENS", help="of a prompt and of an answer, if shorter")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--stages", type=int, default=1, help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the weights")
    add("--memory-limit", default="", metavar="BYTES", help="of each GPU, e.g. 24564Mi")
    add("--memory-fraction", type=float, metavar="SHARE")
    add("--max-num-requests", type=int, metavar="N")
    add("--max-batched-tokens", type=int, metavar="N")
    add("--host", metavar="BYTES", help="host tier of all stages")
    add("--json", type=Path, metavar="FILE")
    add(
        "--metrics", type=Path, metavar="JSONL", help="keep what /metrics said there, by the second"
    )
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="gpu-job-") as name:
        job_file, port = write_all(options, Path(name)), free_port()
        child = ["--child", str(job_file), str(port), str(options.seed), options.memory_limit]
        code, printed, seen = run_watched([sys.executable, __file__, *child], port)
        print(printed, flush=True)
        if code != 0:
            return code
        figures = figures_of(job_file, printed, seen)
    for key, value in figures.items():
        print(f"{key}: {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if options.metrics is not None:
        lines = (json.dumps({"at": at, "text": text}) for at, text in seen.scrapes)
        options.metrics.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return 0 if figures["records"] == figures["lines"] and not figures["failed"] else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(run_child(*sys.argv[2:]))
    sys.exit(main())
