"""Greedy tokens of the pipeline against transformers: as close to float32 as its own bfloat16 is.

    python tools/gpu_transformers.py                    # one stage on a GPU, else on the CPU
    python tools/gpu_transformers.py --stages 2 --models qwen2

Small models with random weights. Our tokens are held against transformers' float32 logits for the
same texts, position by position: how often is the token the one with the greatest? The same is
asked of transformers' own bfloat16. Exits 1 if we are more than a point below it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "worker")]

from kit.models import build_oracle  # noqa: E402 (the path is set above)
from pipemax_worker.contract.model_config import load_model_config  # noqa: E402
from pipemax_worker.runner.bench_engine import run_engine  # noqa: E402
from pipemax_worker.runner.bench_settings import BenchOptions, build_settings  # noqa: E402
from pipemax_worker.runner.bench_work import BenchWork, make_work  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

MOST_BELOW = 0.01
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 2048,
    "initializer_range": 0.06,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {},
    "mixtral": {"num_local_experts": 8, "sliding_window": None},
}
Tokens = tuple[tuple[int, ...], ...]


def save(name: str, folder: Path) -> Path:
    build_oracle(name, **{**SHAPE, **MODELS[name]}).to(torch.bfloat16).save_pretrained(folder)
    return folder


def our_tokens(folder: Path, work: BenchWork, num_stages: int) -> Tokens:
    config = load_model_config(folder)
    options = BenchOptions(  # beside what transformers holds of the same GPU
        folder, max_num_requests=len(work), max_batched_tokens=256, device_kv_bytes=1 << 30,
        host_kv_bytes=1 << 28,
    )  # fmt: skip
    settings = build_settings(options, config, num_stages)
    return run_engine(settings, work, make_work(config, 2, 1)).token_ids


@torch.inference_mode()
def greatest(folder: Path, dtype: torch.dtype, work: BenchWork, answers: Tokens) -> list[list[int]]:
    """What transformers finds most likely at each position of each answer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    found = []
    for prompt, answer in zip(work.prompts, answers, strict=True):
        logits = model(torch.tensor([[*prompt, *answer[:-1]]], device=device)).logits[0]
        found.append(logits[len(prompt) - 1 :].argmax(-1).tolist())
    return found


def share_equal(one: list[list[int]], other: Tokens | list[list[int]]) -> float:
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def measure(name: str, num_stages: int, num_requests: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="gpu-transformers-") as scratch:
        folder = save(name, Path(scratch))
        work = make_work(load_model_config(folder), num_requests, seed=5)
        answers = our_tokens(folder, work, num_stages)
        expected = greatest(folder, torch.float32, work, answers)
        theirs = greatest(folder, torch.bfloat16, work, answers)
    return {
        "model": name,
        "stages": num_stages,
        "tokens": work.num_output_tokens,
        "ours": share_equal(expected, answers),
        "transformers_bfloat16": share_equal(expected, theirs),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), metavar="A,B")
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        row = measure(name, options.stages, options.requests)
        rows.append(row)
        print(
            f"{name}, {row['stages']} stages: {row['ours']:.2%} of {row['tokens']} tokens are "
            f"float32's choice; of transformers' bfloat16 {row['transformers_bfloat16']:.2%}",
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return int(any(row["ours"] < row["transformers_bfloat16"] - MOST_BELOW for row in rows))


if __name__ == "__main__":
    sys.exit(main())
