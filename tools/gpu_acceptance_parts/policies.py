"""Predictions by the planner from this machine's own profile, then the same runs measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_acceptance_parts.files import fresh, load_json, write_w1
from gpu_acceptance_parts.part import Figure, Json, Part, Setting, at_least, speed
from gpu_acceptance_parts.running import python
from gpu_acceptance_parts.speeds import CARD_MEMORY, NO_PEERS, SHAPES, TINY, profile_of

MOST_APART = 0.1
POLICIES = "vllm,pipemax,fused,tdpipe"
SECONDS_EACH = 12.0
"""Of the fastest policy."""


@dataclass(frozen=True)
class Ground:
    """A model for so many cards of 24 GB, and a host tier."""

    shape: str
    host: str


GROUNDS = {
    1: Ground("Qwen2.5-7B", "16Gi"),
    2: Ground("Qwen2.5-14B", "24Gi"),
    4: Ground("Qwen2.5-32B", "64Gi"),
    8: Ground("Llama-2-70B", "100Gi"),
}


def _predict(setting: Setting) -> Sequence[object]:
    num_stages = setting.num_stages
    common = (
        *("predict", fresh(setting, "predictions"), "--hardware", profile_of(setting)),
        *("--stages", num_stages, "--policies", POLICIES, "--micro-batches", num_stages + 1),
    )
    if setting.is_cpu:
        small = ("--workload", write_w1(setting), "--seconds", 0.01)
        words = ("--shape", TINY, "--memory", "", "--host", "64Mi", *small)
        return python("tools/paper_setting.py", *common, *words)
    ground = GROUNDS[num_stages]
    words = ("--shape", SHAPES / ground.shape, "--memory", CARD_MEMORY, "--host", ground.host)
    return python("tools/paper_setting.py", *common, *words, "--seconds", SECONDS_EACH)


def read_predictions(setting: Setting, printed: str) -> list[Figure]:
    found = load_json(setting, "predictions")
    figures = [
        speed(f"{policy}, predicted", float(one["tokensPerSecond"]), "tokens/s in and out")
        for policy, one in found["predictions"].items()
    ]
    return [*figures, Figure("requests", found["requests"])]


def _measure(setting: Setting) -> Sequence[object]:
    predictions = setting.file("predictions.json")
    if not predictions.is_file():
        raise ValueError("there are no predictions: run the part 'predict' before it")
    words = ("measure", predictions, "--json", fresh(setting, "policies"))
    return python("tools/paper_setting.py", *words)


def rate_of(measured: Json) -> float:
    """In and out, of the whole run."""
    run = measured["runs"][0]
    return float((run["num_prompt_tokens"] + run["num_generated_tokens"]) / run["seconds"])


def read_policies(setting: Setting, printed: str) -> list[Figure]:
    predicted = load_json(setting, "predictions")["predictions"]
    rates = {one["name"]: rate_of(one) for one in load_json(setting, "policies")["pipemax"]}
    figures = []
    for policy, rate in rates.items():
        error = rate / predicted[policy]["tokensPerSecond"] - 1
        figures.append(speed(f"{policy}, measured", rate, "tokens/s in and out"))
        figures.append(
            Figure(f"{policy}, measured over predicted", error, "", f"within {MOST_APART:.0%}",
                   abs(error) <= MOST_APART, is_speed=True)
        )  # fmt: skip
    if {"fused", "vllm"} <= rates.keys():
        figures.append(at_least("fused over vllm", rates["fused"] / rates["vllm"], 1.0))
    return figures


PREDICT = Part(
    "predict", "the planner's predictions for this machine, before the measurement", 120.0,
    _predict, read_predictions,
)  # fmt: skip
MEASURE = Part(
    "policies", "vllm, pipemax, fused and tdpipe in the same processes, as predicted", 420.0,
    _measure, read_policies, environment=NO_PEERS,
)  # fmt: skip
