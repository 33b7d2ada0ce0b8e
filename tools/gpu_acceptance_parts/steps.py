"""Parts that hold one stage's step against its floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_acceptance_parts.files import fresh, load_json, small_shape
from gpu_acceptance_parts.part import Figure, Part, Setting, at_most, speed
from gpu_acceptance_parts.running import python
from gpu_acceptance_parts.speeds import SHAPES, STEP_OVER_FLOOR


@dataclass(frozen=True)
class StepCase:
    """One stage's decode step: ``layers`` of a model cut into stages, None for all of them."""

    name: str
    shape: str
    requests: int
    layers: int | None = None
    prefill: int = 0

    def command(self, setting: Setting) -> Sequence[object]:
        out = ("--json", fresh(setting, self.name))
        if setting.is_cpu:
            small = ("--requests", 8, "--context", 40, "--prefill", min(self.prefill, 4))
            model = small_shape(setting, SHAPES / self.shape)
            words = python("tools/gpu_step.py", "--model", model, "--steps", 2)
            return [*words, *small, *out]
        layers = () if self.layers is None else ("--layers", self.layers)
        words = ("--model", SHAPES / self.shape, "--requests", self.requests, "--steps", 20)
        return python("tools/gpu_step.py", *words, "--prefill", self.prefill, *layers, *out)

    def read(self, setting: Setting, printed: str) -> list[Figure]:
        found = load_json(setting, self.name)
        ratio, kernels = found.get("ahead_over_floor", found["step_over_floor"]), "kernels_used"
        return [
            at_most("step over floor", ratio, STEP_OVER_FLOOR),
            speed("step", found.get("ahead_ms", found["host_ms"]["step"]), "ms"),
            speed("floor", found["floor_ms"], "ms"),
            speed("copy", found["copy_gb_per_second"], "GB/s"),
            Figure("kernels", found[kernels], "", "graphs", found[kernels] == "graphs", True),
        ]

    def part(self) -> Part:
        cut = f", {self.layers} of its layers" if self.layers else ""
        rows = f"{self.requests} decoding" + (f" + {self.prefill} of a prompt" * bool(self.prefill))
        return Part(
            self.name, f"a step over its floor: {self.shape}{cut}, {rows}", 110.0, self.command,
            self.read,
        )  # fmt: skip


STEPS = tuple(
    case.part()
    for case in (
        StepCase("step-7b", "Qwen2.5-7B", 128),
        StepCase("step-mixtral", "Mixtral-8x7B", 32, layers=8),
        StepCase("step-14b", "Qwen2.5-14B", 48, layers=24, prefill=48),
        StepCase("step-32b", "Qwen2.5-32B", 32, layers=16, prefill=32),
        StepCase("step-7b-prompts", "Qwen2.5-7B", 96, prefill=64),
    )
)
