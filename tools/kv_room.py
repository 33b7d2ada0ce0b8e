"""How many tokens of KV a model leaves room for on GPUs of a size, by arithmetic.

    python tools/kv_room.py tools/shapes/Qwen2.5-32B --gpus 4 --memory-mib 24564 --other-mib 1100

Three ways to cut the model, each with the best split into whole layers: with the embedding on the
first GPU; with its rows in host memory, as it is built; with those there and the LM head split
evenly over the stages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.model_config import load_model_config  # noqa: E402
from pipemax_worker.pipeline.layer_split import SplitCosts, split_layers  # noqa: E402
from pipemax_worker.pipeline.partition import derive_split_costs  # noqa: E402

MIB = 1 << 20


def count_kv_tokens(costs: SplitCosts, split: Sequence[int], room_bytes: Sequence[int]) -> int:
    """What the stage with the least room holds. ``room_bytes``: of each, for weights and KV."""
    first, tokens = 0, []
    for stage, (num_layers, room) in enumerate(zip(split, room_bytes, strict=True)):
        weights = sum(costs.layer_bytes[first : first + num_layers])
        weights += costs.embedding_bytes if stage == 0 else 0
        weights += costs.head_bytes if stage == len(split) - 1 else 0
        tokens.append((room - weights) // (num_layers * costs.kv_bytes_per_token))
        first += num_layers
    return min(tokens)


def describe(name: str, costs: SplitCosts, room_bytes: Sequence[int]) -> str:
    split = split_layers(costs, len(room_bytes), room_bytes)
    tokens = count_kv_tokens(costs, split, room_bytes)
    return f"{name:<46} {'/'.join(map(str, split)):<14} {tokens:>9,} tokens of KV"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a folder with config.json")
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--memory-mib", type=int, default=24_564, help="of each GPU")
    parser.add_argument("--other-mib", type=int, default=1_100, help="context, NCCL, buffers")
    parser.add_argument("--kv-dtype", default="bfloat16")
    options = parser.parse_args(arguments)
    costs = derive_split_costs(load_model_config(options.model), kv_dtype=options.kv_dtype)
    rooms = [(options.memory_mib - options.other_mib) * MIB] * options.gpus
    without_embedding = replace(costs, embedding_bytes=0)
    share = costs.head_bytes // options.gpus
    without_both = replace(
        without_embedding, head_bytes=0, head_seconds=costs.head_seconds / options.gpus
    )
    print(describe("whole layers, embedding and head at the ends", costs, rooms))
    print(describe("embedding rows in host memory", without_embedding, rooms))
    print(
        describe("and the LM head split over the stages", without_both, [r - share for r in rooms])
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
