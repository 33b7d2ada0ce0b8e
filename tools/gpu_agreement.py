"""Do greedy texts depend on how the model is cut and where its KV lives? Random weights, all GPUs.

    python tools/gpu_agreement.py                # 1 stage, as many as GPUs, and rotation on those
    python tools/gpu_agreement.py --stages 1 2 --shape models/tiny    # anywhere, on CPUs exactly

Sums in bfloat16 depend on the shapes of a batch, so a close decision may turn, after which a text
goes another way: the share of equal tokens before a text's first difference is what to look at.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.model_config import ModelConfig, load_model_config  # noqa: E402
from pipemax_worker.pipeline.gpus import count_gpus  # noqa: E402
from pipemax_worker.runner.bench_engine import EngineRun, run_engine  # noqa: E402
from pipemax_worker.runner.bench_settings import (  # noqa: E402
    BenchOptions,
    build_settings,
    with_device_blocks,
)
from pipemax_worker.runner.bench_work import BenchWork, make_work  # noqa: E402

SMALL = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 4096,
}
ROTATING_MICRO_BATCHES = 4


def small_shape(folder: Path) -> Path:
    """Qwen2.5-7B's head size and grouping, small."""
    shape = json.loads((ROOT / "tools" / "shapes" / "Qwen2.5-7B" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**shape, **SMALL}))
    return folder


def run(
    folder: Path, config: ModelConfig, work: BenchWork, num_stages: int, rotates: bool
) -> EngineRun:
    """All in one micro-batch a stage, or more of them on a quarter of the room."""
    options = BenchOptions(
        folder, dummy_weights_seed=0, max_num_requests=len(work), max_batched_tokens=256
    )
    micro_batches = ROTATING_MICRO_BATCHES if rotates else None
    settings = build_settings(options, config, num_stages, micro_batches)
    num_blocks = work.num_blocks(settings.pipeline.block_tokens) + len(work)
    num_device_blocks = max(num_blocks // 4, 2 * work.longest_blocks(16)) if rotates else num_blocks
    settings = with_device_blocks(settings, num_device_blocks, num_blocks)
    return run_engine(settings, work, make_work(config, 2, 1))


def agreement(one: EngineRun, other: EngineRun) -> tuple[float, float]:
    """(share of requests that are equal, share of tokens before the first difference)."""
    equal = kept = total = 0
    for first, second in zip(one.token_ids, other.token_ids, strict=True):
        pairs = list(zip(first, second, strict=True))
        differs = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
        equal += differs == len(pairs)
        kept += differs
        total += len(pairs)
    return equal / len(one.token_ids), kept / total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=Path, help="folder with config.json; default: a small one")
    parser.add_argument("--stages", type=int, nargs="*", help="default: 1 and all GPUs")
    parser.add_argument("--requests", type=int, default=64)
    options = parser.parse_args()
    stages = options.stages or sorted({1, max(1, count_gpus())})
    with tempfile.TemporaryDirectory(prefix="gpu-agreement-") as name:
        folder = options.shape or small_shape(Path(name))
        config = load_model_config(folder)
        work = make_work(config, options.requests, seed=3)
        first: EngineRun | None = None
        for num_stages in stages:
            for rotates in (False, True):
                result = run(folder, config, work, num_stages, rotates)
                first = first or result
                requests, tokens = agreement(first, result)
                moved = sum(copy.num_bytes for copy in result.copies)
                print(
                    f"{num_stages} stages, rotation {'on' if rotates else 'off'}: "
                    f"{100 * requests:.1f} % of requests as the first, {100 * tokens:.1f} % of "
                    f"tokens before a difference; {result.tokens_per_second:.0f} tokens/s, "
                    f"{moved >> 20} MiB moved, {result.num_preemptions} preemptions",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
