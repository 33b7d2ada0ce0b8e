"""How many layers each stage gets. Pure."""

from __future__ import annotations

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.errors import UnsupportedModelError


def partition_layers(
    config: ModelConfig, num_stages: int, head_share: float = 1.0
) -> tuple[int, ...]:
    """Layers of each stage, so that the slowest stage is as fast as can be.

    A pipeline runs at its slowest stage's pace. In units of one layer, the LM head costs the last
    stage its parameters over a layer's, times ``head_share``: 1 where a step's time is that of
    reading the weights, which it reads once like a layer's; less where time goes with the rows, of
    which the head sees only those that are sampled. The embedding is looked up and costs the first
    stage no time, but room: of all splits that are equally fast, the one whose heaviest stage
    weighs least is taken (every stage has the same number of KV slots), and then the most even one.

    Raises UnsupportedModelError if there are more stages than layers.
    """
    num_layers = config.num_hidden_layers
    if num_stages > num_layers:
        raise UnsupportedModelError(
            f"the model has {num_layers} layers, so it can be cut into at most {num_layers} "
            f"stages, not {num_stages}; lower parallelism.stagesPerNode"
        )
    if num_stages == 1:
        return (num_layers,)
    head_layers = config.embedding_parameters / config.layer_parameters
    return min(
        (
            (first, *_even(num_layers - first - last, num_stages - 2), last)
            for first in range(1, num_layers - num_stages + 2)
            for last in range(1, num_layers - first - num_stages + 3)
            if num_stages > 2 or first + last == num_layers
        ),
        key=lambda split: _cost(split, head_layers, head_share),
    )


def _even(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """The stages in the middle cost the same a layer, so the even split is their best."""
    if num_stages == 0:
        return ()
    each, more = divmod(num_layers, num_stages)
    return (each + 1,) * more + (each,) * (num_stages - more)


def _cost(
    split: tuple[int, ...], head_layers: float, head_share: float
) -> tuple[float, float, int]:
    slowest = max(*split[:-1], split[-1] + head_share * head_layers)
    heaviest = max(split[0] + head_layers, *split[1:-1], split[-1] + head_layers)
    return slowest, heaviest, sum(layers * layers for layers in split)
