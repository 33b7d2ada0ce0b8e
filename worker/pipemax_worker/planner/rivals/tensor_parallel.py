"""A model cut across its width: what a card holds, how much KV that leaves, what a step costs.

Every card has an even part of every matrix and of the vocabulary, and the KV of its heads; with
fewer KV heads than cards each head is held more than once. Each layer ends its attention and its
MLP with an all-reduce of the hidden states, and a step with an all-gather of the sampled rows'
logits (as vLLM has it).
"""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.contract.weights import device_weight_bytes, weight_bytes
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.performance.step_cost import StageCost, StepCost
from pipemax_worker.planner.rivals.collectives import Collectives, derive_collectives
from pipemax_worker.planner.simulation import SimulationSettings

_ALL_REDUCES_PER_LAYER = 2
_HIDDEN_ELEMENT_BYTES = 2
_LOGIT_BYTES = 2


class TensorParallelCost:
    """A ``StepCost`` of one stage, which is all cards together."""

    num_stages = 1
    alike = (0,)

    def __init__(self, card: StepCost, collectives: Collectives, model: ModelConfig) -> None:
        self._card = card
        self._collectives = collectives
        self._num_all_reduces = _ALL_REDUCES_PER_LAYER * model.num_hidden_layers
        self._token_bytes = model.hidden_size * _HIDDEN_ELEMENT_BYTES
        self._row_bytes = model.vocab_size * _LOGIT_BYTES

    def stage_seconds(self, shape: BatchShape, stage: int) -> float:
        return self._card.stage_seconds(shape, stage) + self.collective_seconds(shape)

    def collective_seconds(self, shape: BatchShape) -> float:
        """Of ``stage_seconds``: what the cards wait for each other's bytes."""
        reduced_bytes = shape.num_tokens * self._token_bytes
        return self._num_all_reduces * self._collectives.all_reduce_seconds(
            reduced_bytes
        ) + self._collectives.all_gather_seconds(shape.num_requests * self._row_bytes)


def derive_cost(settings: SimulationSettings) -> TensorParallelCost:
    """All cards of ``settings.node`` as one."""
    card = settings.node.step_cost([card_cost(settings)])
    return TensorParallelCost(card, derive_collectives(settings.node), settings.model)


def card_cost(settings: SimulationSettings) -> StageCost:
    """What one card holds of the whole model."""
    geometry = msgspec.structs.replace(
        settings.geometry,
        layers_of_stage=(settings.model.num_hidden_layers,),
        mlp_left_by_stage=(),
    )
    whole = derive_stage_costs(settings.model, geometry, settings.dtype)[0]
    num_cards = settings.node.num_gpus
    return whole.shared_by(num_cards, kv_share(settings))


def kv_share(settings: SimulationSettings) -> float:
    """Of a token's KV that one card holds."""
    return max(1.0 / settings.node.num_gpus, 1.0 / settings.model.num_key_value_heads)


def num_slots(settings: SimulationSettings) -> int:
    """Blocks that fit beside a card's part of the weights, in the memory that the tightest stage of
    the pipeline in ``settings`` fills."""
    geometry, num_cards = settings.geometry, settings.node.num_gpus
    card_bytes = max(
        device_weight_bytes(
            settings.model, geometry.cut, stage, settings.dtype, settings.node.device
        )
        + geometry.num_device_slots * geometry.slot_bytes(stage)
        for stage in range(geometry.num_stages)
    )
    part_bytes = _all_weight_bytes(settings.model, geometry.cut, settings.dtype) / num_cards
    return int((card_bytes - part_bytes) // (geometry.block_bytes() * kv_share(settings)))


def max_num_requests(scheduler: SchedulerConfig) -> int:
    """In one step: all that the pipeline's micro-batches take together."""
    num_requests = scheduler.max_num_requests * scheduler.num_micro_batches
    if scheduler.max_num_running is None:
        return num_requests
    return min(num_requests, scheduler.max_num_running)


def _all_weight_bytes(model: ModelConfig, cut: ModelCut, dtype: str) -> int:
    num_bytes = sum(weight_bytes(model, cut, stage, dtype) for stage in range(cut.num_stages))
    if cut.num_stages > 1 and model.tie_word_embeddings:  # both ends of a pipeline have it
        num_bytes -= model.embedding_parameters * KV_DTYPE_BYTES[dtype]
    return num_bytes
