"""Parts that ask how fast it is, and whether what we count and predict is so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from gpu_acceptance_parts.files import fresh, load_json, write_w1
from gpu_acceptance_parts.part import Figure, Part, Setting, at_least, at_most, speed
from gpu_acceptance_parts.running import ROOT, python

STEP_OVER_FLOOR = 1.25
CARD_MEMORY = "24564Mi"
"""Of a consumer card, by nvidia-smi."""

SHAPES = ROOT / "tools" / "shapes"
TINY = ROOT / "models" / "tiny"
NO_PEERS = {"NCCL_P2P_DISABLE": "1"}
"""As between consumer cards."""

_RATIO = re.compile(r"^(\w+ to \w+): ours .*ratio ([\d.]+)", re.MULTILINE)
_OURS = re.compile(r"^host to device: ours (.*)/s; device to host: (.*)/s", re.MULTILINE)


def pipemax(*words: object) -> list[object]:
    return python("-m", "pipemax_worker.cli.main", *words)


def _detect(setting: Setting) -> Sequence[object]:
    setting.scratch.mkdir(parents=True, exist_ok=True)
    stages = ("--stages", setting.num_stages) if setting.is_cpu else ()
    out = ("--disk", setting.scratch, "--profile", fresh(setting, "profile", "yaml"))
    return pipemax("plan", "--detect", *out, *stages)


def read_profile(setting: Setting, printed: str) -> list[Figure]:
    profile = yaml.safe_load(setting.file("profile.yaml").read_text("utf-8"))
    gpu, link, host = profile["gpu"], profile["link"], profile["host"]
    num_gpus = profile["num_gpus"]
    expected = setting.num_stages if setting.is_cpu else setting.machine.num_gpus
    return [
        Figure("cards", num_gpus, "", str(expected), num_gpus == expected),
        speed("memory", gpu["memory_bandwidth_bytes_per_second"] / 1e9, "GB/s"),
        speed("products", gpu["flops_per_second"] / 1e12, "TFLOP/s"),
        speed("to the card", link["host_to_device_bytes_per_second"] / 1e9, "GB/s"),
        speed("from the card", link["device_to_host_bytes_per_second"] / 1e9, "GB/s"),
        speed("all cards' copies", host["copy_bytes_per_second"] / 1e9, "GB/s"),
        speed("NVMe read", host["nvme_read_bytes_per_second"] / 1e9, "GB/s"),
        speed("NVMe write", host["nvme_write_bytes_per_second"] / 1e9, "GB/s"),
    ]


def _w1_settings(setting: Setting) -> tuple[object, ...]:
    """The same for benchmark and job."""
    work = ("--workload", write_w1(setting), "--host", 0)
    if setting.is_cpu:
        return ("--model", TINY, *work, "--requests", 12, "--max-num-requests", 8)
    return (
        *("--model", SHAPES / "Qwen2.5-7B", *work, "--requests", 600),
        *("--memory-limit", CARD_MEMORY, "--memory-fraction", 0.97),
        *("--max-num-requests", 256, "--max-batched-tokens", 256),
    )


def _w1_bench(setting: Setting) -> Sequence[object]:
    out = ("--rounds", 1, "--json", fresh(setting, "w1-bench"))
    return pipemax("bench", "--dummy-weights", *_w1_settings(setting), *out)


def read_w1_bench(setting: Setting, printed: str) -> list[Figure]:
    run = load_json(setting, "w1-bench")["pipemax"][0]["runs"][0]
    figures = [
        speed("output", run["num_generated_tokens"] / run["seconds"], "tokens/s"),
        speed("step", 1e3 * run["median_step_seconds"], "ms"),
    ]
    if steady := run["steady"]:
        rates = [steady[f"num_{kind}_tokens"] / steady["seconds"] for kind in
                 ("generated", "prompt")]  # fmt: skip
        figures.append(speed("steady output", rates[0], "tokens/s"))
        figures.append(speed("steady input", rates[1], "tokens/s"))
    if run["steady_floor_seconds"]:
        steps = sorted(step["seconds"] for step in steady["steps"])
        ratio = steps[len(steps) // 2] / run["steady_floor_seconds"]
        figures.append(at_most("steady step over floor", ratio, STEP_OVER_FLOOR))
    if memory := run["gpu_memory_bytes"]:
        figures.append(at_most("GPU memory by nvidia-smi", memory[0] / (1 << 20), 24564, "MiB"))
    return figures


def _w1_job(setting: Setting) -> Sequence[object]:
    out = ("--json", fresh(setting, "w1-job"), "--metrics", fresh(setting, "metrics", "jsonl"))
    device = "cpu" if setting.is_cpu else "cuda"
    return python("tools/gpu_job.py", "--device", device, *_w1_settings(setting), *out)


def read_w1_job(setting: Setting, printed: str) -> list[Figure]:
    found = load_json(setting, "w1-job")
    ours = found["output_tokens_per_second"]
    bench = setting.earlier.get("w1-bench", {}).get("output")
    ratio = ours / bench if ours and isinstance(bench, float) else None
    missing = found["panel_metrics_without_data"]
    per_token = found["joules_per_token"]
    return [
        at_least("job over benchmark", ratio, 0.97),
        speed("output", ours, "tokens/s"),
        Figure("records", found["records"], "", str(found["lines"]),
               found["records"] == found["lines"] and not found["failed"]),
        Figure("joules a token, whole run", per_token, "J", "measured", per_token is not None,
               is_speed=True),
        speed("joules a token, while it ran", found["steady_joules_per_token"], "J"),
        Figure("GPU panels' metrics without data", ", ".join(missing) or "none", "", "none",
               not missing, is_speed=True),
    ]  # fmt: skip


def _swap(setting: Setting) -> Sequence[object]:
    small = ("--model", TINY, "--device", "cpu", "--seconds", 2, "--warm-up", 1, "--requests", 24)
    return python("tools/swap_against_nvml.py", *(small if setting.is_cpu else ()))


def read_swap(setting: Setting, printed: str) -> list[Figure]:
    if setting.is_cpu:
        found = _OURS.search(printed)
        if found is None:
            raise ValueError("nothing was counted")
        return [Figure("ours, loaded and stored a second", ", ".join(found.groups()))]
    figures = [
        Figure(f"{direction}, ours over NVML's", float(ratio), "", "0.9 to 1.1",
               abs(float(ratio) - 1) <= 0.1)
        for direction, ratio in _RATIO.findall(printed)
    ]  # fmt: skip
    if not figures:
        raise ValueError("NVML has told nothing")
    return figures


def _nvme(setting: Setting) -> Sequence[object]:
    setting.scratch.mkdir(parents=True, exist_ok=True)
    out = ("--folder", setting.scratch, "--json", fresh(setting, "nvme"))
    if setting.is_cpu:
        tiers = ("--device-kv", "3Mi", "--host", "4Mi", "--nvme", "64Mi")
        return python("tools/gpu_nvme.py", "--model", TINY, *tiers, *out)
    words = ("--workload", write_w1(setting), "--requests", 160)
    return python("tools/gpu_nvme.py", *words, *out)


def read_nvme(setting: Setting, printed: str) -> list[Figure]:
    found = load_json(setting, "nvme")
    on, off = found["on"], found["off"]
    used = min(on["written_bytes"], on["read_bytes"])
    return [
        at_least("NVMe on over off", found["on_over_off"], 0.95),
        Figure("written and read", used, "bytes", "> 0", used > 0),
        speed("written", on["written_gb_per_second"], "GB/s"),
        speed("read", on["read_gb_per_second"], "GB/s"),
        speed("plain write", found["plain_write_gb_per_second"], "GB/s"),
        speed("plain read", found["plain_read_gb_per_second"], "GB/s"),
        Figure("recomputed, on and off", f"{on['recomputed_tokens']}, {off['recomputed_tokens']}"),
    ]


def _copies(setting: Setting) -> Sequence[object]:
    words = ("--slot-kib", 1024, "--mib", 1024, "--json", fresh(setting, "copies"))
    return python("tools/gpu_copies.py", *words)


def read_copies(setting: Setting, printed: str) -> list[Figure]:
    (row,) = load_json(setting, "copies")
    return [
        at_least(f"{kind} of scattered slots over a plain copy",
                 row[f"batched x2 {kind}"] / row[f"plain {kind}"], 0.85)
        for kind in ("load", "store", "both")
    ]  # fmt: skip


def profile_of(setting: Setting) -> Path:
    """Raises ValueError if this machine was not measured in this run."""
    path = setting.file("profile.yaml")
    if not path.is_file():
        raise ValueError("there is no profile.yaml: run the part 'detect' before it")
    return path


DETECT = Part(
    "detect", "pipemax plan --detect: this machine's profile", 150.0, _detect, read_profile
)
W1_BENCH = Part(
    "w1-bench", "W1's first 600 requests, 7B shape, one GPU of 24 GB", 200.0, _w1_bench,
    read_w1_bench,
)  # fmt: skip
W1_JOB = Part(
    "w1-job", "the same as a real job; its energy, and the dashboards' GPU metrics", 200.0, _w1_job,
    read_w1_job,
)  # fmt: skip
SWAP = Part(
    "swap", "our swap counters against NVML's count of PCIe bytes, 20 s", 150.0, _swap, read_swap,
)  # fmt: skip
NVME = Part(
    "nvme", "the NVMe tier where the host tier overflows, on and off", 200.0, _nvme, read_nvme,
    is_judged_by_exit=False,
)  # fmt: skip
COPIES = Part(
    "copies", "copies of scattered slots against plain ones", 90.0, _copies, read_copies,
    runs_on_cpu=False,
)  # fmt: skip
