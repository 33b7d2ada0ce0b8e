"""The quickstart on this machine's GPUs, in every way that moves KV; answers checked by a program.

    python tools/gpu_check.py            # 1, 2, ... stages as there are GPUs
    python tools/gpu_check.py --cpu      # the same on the CPU, to try the script itself
    python tools/gpu_check.py --requests 150

Each row: stages, tiers, KV type, right answers, generated tokens/s, what moved. Exits 1 if any run
has less than 99 % of its answers right, or a tight run did not go through the tiers it names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "manifests" / "examples" / "quickstart"
RIGHT = re.compile(r"^all\s+(\d+)/(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    name: str
    num_stages: int
    kv_dtype: str = "auto"
    device_kv: str | None = None
    host: str = "256Mi"
    nvme: str | None = None
    micro_batches: int | None = None
    must_move: tuple[str, ...] = ()


def runs_for(num_stages: int, device: str) -> list[Run]:
    """A roomy run, a rotating one, one that overflows host memory, and one with FP8 KV."""
    many = max(4, num_stages)
    # One block of the tiny model's eight layers is 32 KiB in bfloat16 and 64 KiB in float32.
    block_kib = (64 if device == "cpu" else 32) // num_stages
    return [
        Run("roomy", num_stages),
        Run(
            "rotation",
            num_stages,
            device_kv=f"{96 * block_kib}Ki",
            micro_batches=many,
            must_move=("device to host", "host to device"),
        ),
        Run(
            "three tiers",
            num_stages,
            device_kv=f"{96 * block_kib}Ki",
            host=f"{160 * block_kib * num_stages}Ki",
            nvme="256Mi",
            micro_batches=many,
            must_move=("device to host", "host to device"),
        ),
        Run("fp8 kv", num_stages, kv_dtype="fp8_e4m3", micro_batches=many),
    ]


def job_of(run: Run, device: str, prompts: Path, output: Path) -> dict[str, Any]:
    engine: dict[str, Any] = {"device": device, "kvDtype": run.kv_dtype}
    if run.device_kv is not None:
        engine["deviceKvCache"] = run.device_kv
    else:
        engine["deviceKvCache"] = "256Mi"
    if run.micro_batches is not None:
        engine["microBatches"] = run.micro_batches
    kv_cache: dict[str, Any] = {"host": run.host}
    if run.nvme is not None:
        kv_cache["nvme"] = {"emptyDir": {}, "size": run.nvme}
    return {
        "apiVersion": "pipemax.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "gpu-check"},
        "spec": {
            "model": {
                "uri": str(ROOT / "models" / "tiny"),
                "name": "tiny",
                "aliases": ["tiny-sorter"],
            },
            "input": {"uri": str(prompts)},
            "output": {"uri": str(output)},
            "parallelism": {"stagesPerNode": run.num_stages},
            "engine": engine,
            "kvCache": kv_cache,
            "sampling": {"temperature": 0, "maxTokens": 200},
        },
    }


def pipemax(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipemax_worker.cli.main", *arguments]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "worker"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def right_answers(output: Path) -> tuple[int, int]:
    """Of the prompts beside ``output``."""
    checked = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "check_answers.py"), str(output),
         str(output.parent / "prompts.jsonl")],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    found = RIGHT.search(checked.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 1)


def write_job(folder: Path, run: Run, device: str, num_requests: int | None) -> tuple[Path, Path]:
    """The first ``num_requests`` questions, or all."""
    output = folder / "out"
    prompts = folder / "prompts.jsonl"
    lines = (QUICKSTART / "prompts.jsonl").read_bytes().splitlines(keepends=True)
    prompts.write_bytes(b"".join(lines[:num_requests]))
    job_file = folder / "job.yaml"
    job_file.write_text(json.dumps(job_of(run, device, prompts, output)))  # JSON is YAML
    return job_file, output


def carry_out(run: Run, device: str, num_requests: int | None) -> bool:
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        job_file, output = write_job(Path(name), run, device, num_requests)
        start = time.monotonic()
        ran = subprocess.run(
            pipemax("run", str(job_file)),
            capture_output=True, text=True, env=environment(), check=False, timeout=240,
        )  # fmt: skip
        seconds = time.monotonic() - start
        right, total = right_answers(output)
    speed = re.search(r"speed\s+([\d.]+)", ran.stdout)
    moved = re.search(r"moved: (.*)", ran.stdout)
    moved_text = moved[1] if moved else ""
    good = (
        ran.returncode == 0
        and right >= 0.99 * total
        and all(link in moved_text for link in run.must_move)
    )
    print(
        f"{run.num_stages} {device} stages, {run.name}: {right}/{total} right, "
        f"{speed[1] if speed else '?'} tokens/s, {seconds:.1f} s whole, moved {moved_text}"
        + ("" if good else "  <-- BAD"),
        flush=True,
    )
    if not good:
        print(ran.stdout[-1500:], ran.stderr[-3000:], sep="\n", flush=True)
    return good


def stop_and_resume(run: Run, device: str, num_requests: int | None) -> bool:
    """SIGTERM in mid-run, then the same command: exit codes 75 and 0, every line one record."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        job_file, output = write_job(Path(name), run, device, num_requests)
        process = subprocess.Popen(
            pipemax("run", str(job_file)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment(),
        )  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "requests done" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        first = process.returncode
        second = subprocess.run(
            pipemax("run", str(job_file)),
            capture_output=True, text=True, env=environment(), check=False, timeout=240,
        )  # fmt: skip
        right, total = right_answers(output)
    good = first in (0, 75) and second.returncode == 0 and right >= 0.99 * total
    print(
        f"{run.num_stages} {device} stages, stop and resume: exit {first} then "
        f"{second.returncode}, {right}/{total} right" + ("" if good else "  <-- BAD"),
        flush=True,
    )
    if not good:
        print(errors[-2000:], second.stderr[-2000:], sep="\n", flush=True)
    return good


def count_gpus() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 0
    return listed.stdout.count("GPU ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--stages", type=int, nargs="*")
    parser.add_argument("--only", nargs="*", help="names of runs; default: all of them")
    parser.add_argument("--requests", type=int, help="of the quickstart; default: all of them")
    options = parser.parse_args()
    device = "cpu" if options.cpu else "cuda"
    most = 2 if options.cpu else count_gpus()
    stages = options.stages or [n for n in (1, 2, 4, 8) if n <= most]
    runs = [run for n in stages for run in runs_for(n, device)]
    wanted = [run for run in runs if options.only is None or run.name in options.only]
    results = [carry_out(run, device, options.requests) for run in wanted]
    last = runs_for(stages[-1], device)[0]
    results.append(stop_and_resume(last, device, options.requests))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
