"""How many tokens of KV a model leaves room for on GPUs of a size, by arithmetic.

    python tools/kv_room.py tools/shapes/Qwen2.5-32B --gpus 4 --memory-mib 24564 --other-mib 1100

Four ways to cut the model, each at its best: into whole layers, with the embedding on the first
GPU; with the embedding's rows in host memory; with those there and cuts within layers too, as it is
built ("17-": the last layer's MLP is the next stage's); and in place of such cuts the LM head split
evenly over the stages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.model_config import load_model_config  # noqa: E402
from pipemax_worker.contract.model_cut import ModelCut  # noqa: E402
from pipemax_worker.pipeline.layer_split import (  # noqa: E402
    SplitCosts,
    cut_model,
    split_layers,
)
from pipemax_worker.pipeline.partition import derive_split_costs  # noqa: E402

MIB = 1 << 20


def count_kv_tokens(costs: SplitCosts, cut: ModelCut, room_bytes: Sequence[int]) -> int:
    """What the stage with the least room holds. ``room_bytes``: of each, for weights and KV."""
    tokens = []
    for stage, room in enumerate(room_bytes):
        attention, mlp = cut.layers(stage)
        weights = sum(costs.layer_bytes[layer] - costs.mlp_bytes[layer] for layer in attention)
        weights += sum(costs.mlp_bytes[layer] for layer in mlp)
        weights += costs.embedding_bytes if stage == 0 else 0
        weights += costs.head_bytes if stage == cut.num_stages - 1 else 0
        tokens.append((room - weights) // (len(attention) * costs.kv_bytes_per_token))
    return min(tokens)


def describe(name: str, costs: SplitCosts, cut: ModelCut, room_bytes: Sequence[int]) -> str:
    tokens = count_kv_tokens(costs, cut, room_bytes)
    return f"{name:<46} {cut.describe():<14} {tokens:>9,} tokens of KV"


def describe_all(costs: SplitCosts, rooms: Sequence[int]) -> Iterator[str]:
    """Line by line."""

    def whole(costs: SplitCosts, rooms: Sequence[int]) -> ModelCut:
        return ModelCut(split_layers(costs, len(rooms), rooms))

    yield describe(
        "whole layers, embedding and head at the ends", costs, whole(costs, rooms), rooms
    )
    costs = replace(costs, embedding_bytes=0)
    yield describe("embedding rows in host memory", costs, whole(costs, rooms), rooms)
    within = cut_model(costs, len(rooms), rooms)
    yield describe("and cuts within layers", costs, within, rooms)
    share = costs.head_bytes // len(rooms)
    costs = replace(costs, head_bytes=0, head_seconds=costs.head_seconds / len(rooms))
    rooms = [room - share for room in rooms]
    yield describe("or the LM head split over the stages", costs, whole(costs, rooms), rooms)


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
    print(*describe_all(costs, rooms), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
