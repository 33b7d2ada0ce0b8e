"""Which parts of a model each stage computes. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class StageLayers(NamedTuple):
    """Layers whose attention, and layers whose MLP (or experts) a stage computes, in order."""

    attention: range
    mlp: range


class ModelCut(msgspec.Struct, frozen=True):
    """A model cut into stages.

    layers_of_stage     layers whose attention, and so whose KV, is a stage's: one or more each.
    mlp_left_by_stage   whether the MLP of a stage's last layer, with its norm, is the next stage's,
                        which begins with it; False of the last stage. Empty: nobody leaves any.
                        What travels between the two is the residual stream either way.
    """

    layers_of_stage: tuple[int, ...]
    mlp_left_by_stage: tuple[bool, ...] = ()

    @property
    def num_stages(self) -> int:
        return len(self.layers_of_stage)

    def layers(self, stage: int) -> StageLayers:
        first = sum(self.layers_of_stage[:stage])
        end = first + self.layers_of_stage[stage]
        takes_mlp = stage > 0 and self._leaves_mlp(stage - 1)
        mlp = range(first - takes_mlp, end - self._leaves_mlp(stage))
        return StageLayers(range(first, end), mlp)

    def _leaves_mlp(self, stage: int) -> bool:
        return bool(self.mlp_left_by_stage) and self.mlp_left_by_stage[stage]

    def describe(self, separator: str = "/") -> str:
        """``16/17-/16/15``: the layers of each stage, with a minus where the last one's MLP is the
        next stage's."""
        stages = range(self.num_stages)
        counts = zip(self.layers_of_stage, map(self._leaves_mlp, stages), strict=True)
        return separator.join(f"{count}{'-' if leaves else ''}" for count, leaves in counts)
