"""The NVMe tier where the host tier overflows: on against off, beside the disk's own speed.

    python tools/gpu_nvme.py --folder /mnt/nvme --workload w1.jsonl --requests 160
    python tools/gpu_nvme.py --model models/tiny --device-kv 2Mi --host 4Mi --nvme 64Mi  # on a CPU

Random weights; more requests are admitted than the host tier holds KV for (growth is not reserved),
so what grows beyond it goes to NVMe, or without that tier is computed again. Rows: output tokens a
second, recomputed tokens, bytes and GB/s of each direction, beside a plain read and write of the
same disk. Exits 1 if NVMe was not used, or on is slower than off by more than ``--tolerance``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.geometry import Tier  # noqa: E402
from pipemax_worker.contract.model_config import ModelConfig, load_model_config  # noqa: E402
from pipemax_worker.job.quantities import parse_quantity  # noqa: E402
from pipemax_worker.preflight.disk import measure_nvme  # noqa: E402
from pipemax_worker.runner.bench_engine import EngineRun, run_engine  # noqa: E402
from pipemax_worker.runner.bench_settings import BenchOptions, build_settings  # noqa: E402
from pipemax_worker.runner.bench_work import BenchWork, make_work  # noqa: E402
from pipemax_worker.runner.bench_workload import read_workload  # noqa: E402
from pipemax_worker.runner.sizing import SessionSettings  # noqa: E402

WRITTEN, READ = (Tier.HOST, Tier.NVME), (Tier.NVME, Tier.HOST)


def settings_of(
    options: argparse.Namespace, config: ModelConfig, nvme_folder: Path | None
) -> SessionSettings:
    """With the tier if there is a folder for it."""
    asked = BenchOptions(
        options.model,
        dummy_weights_seed=0,
        micro_batches=options.micro_batches,
        max_num_requests=options.max_num_requests,
        device_kv_bytes=options.device_kv,
        host_kv_bytes=options.host,
    )
    settings = build_settings(asked, config, options.stages)
    pipeline = msgspec.structs.replace(
        settings.pipeline,
        nvme_folder=nvme_folder,
        nvme_kv_bytes=0 if nvme_folder is None else options.nvme,
    )
    return msgspec.structs.replace(settings, pipeline=pipeline, growth_reserve_ratio=0.0)


def load(options: argparse.Namespace, config: ModelConfig) -> BenchWork:
    if options.workload is None:
        return make_work(config, options.requests, seed=2)
    return read_workload(options.workload, config, options.requests, None)


def row_of(name: str, run: EngineRun) -> dict[str, Any]:
    moved = {(copy.source, copy.target): copy for copy in run.copies}
    row: dict[str, Any] = {
        "nvme": name,
        "output_tokens_per_second": run.tokens_per_second,
        "recomputed_tokens": run.num_recomputed_tokens,
        "preemptions": run.num_preemptions,
    }
    for label, link in (("written", WRITTEN), ("read", READ)):
        copy = moved.get(link)
        row[f"{label}_bytes"] = copy.num_bytes if copy else 0
        row[f"{label}_gb_per_second"] = (
            copy.num_bytes / copy.seconds / 1e9 if copy and copy.seconds else 0.0
        )
    return row


def measure(options: argparse.Namespace) -> dict[str, Any]:
    config = load_model_config(options.model)
    work = load(options, config)
    warm_up = make_work(config, 4, seed=1)
    options.folder.mkdir(parents=True, exist_ok=True)
    plain = measure_nvme(options.folder)
    found: dict[str, Any] = {
        "plain_read_gb_per_second": (plain.read_bytes_per_second or 0.0) / 1e9,
        "plain_write_gb_per_second": (plain.write_bytes_per_second or 0.0) / 1e9,
    }
    for name in ("on", "off"):
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="gpu-nvme-") as scratch:
            folder = Path(scratch) if name == "on" else None
            run = run_engine(settings_of(options, config, folder), work, warm_up)
        found[name] = row_of(name, run)
        print(found[name], flush=True)
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "tools" / "shapes" / "Qwen2.5-7B", metavar="FOLDER")
    add("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk")
    add("--workload", type=Path, metavar="JSONL", help="default: random lengths")
    add("--requests", type=int, default=64)
    add("--stages", type=int, default=1)
    add("--micro-batches", type=int, default=4)
    add("--max-num-requests", type=int, default=256)
    add("--device-kv", type=parse_quantity, default="1Gi", metavar="BYTES", help="of each stage")
    add("--host", type=parse_quantity, default="2Gi", metavar="BYTES", help="of all stages")
    add("--nvme", type=parse_quantity, default="16Gi", metavar="BYTES", help="of all stages")
    add("--tolerance", type=float, default=0.05)
    add("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    found = measure(options)
    on, off = found["on"], found["off"]
    found["on_over_off"] = on["output_tokens_per_second"] / off["output_tokens_per_second"]
    print({key: value for key, value in found.items() if key not in ("on", "off")})
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    is_used = on["written_bytes"] > 0 and on["read_bytes"] > 0
    return 0 if is_used and found["on_over_off"] >= 1 - options.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
