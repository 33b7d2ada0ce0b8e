"""Predictions by the planner from this machine's own profile, then the same runs measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from make_workload import draw_even_lengths, write_lengths

from gpu_acceptance_parts.files import fresh, load_json, write_w1
from gpu_acceptance_parts.part import Figure, Json, Part, Setting, at_least, speed
from gpu_acceptance_parts.running import ROOT, python
from gpu_acceptance_parts.speeds import CARD_MEMORY, NO_PEERS, SHAPES, TINY, profile_of

MOST_APART = 0.1
QUARTERS = 4
"""Stages that share a card."""

QUARTERS_PREDICTED = ROOT / "docs" / "predictions" / "qwen2.5-32b-8-quarters-even.json"
LEAST_GAIN = 1.12
"""Of rotation, where weights leave little room for KV."""

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
        *("--stages", num_stages, "--policies", POLICIES, "--micro-batches", num_stages),
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


def _quarters(setting: Setting) -> Sequence[object]:
    workload = ROOT / load(QUARTERS_PREDICTED)["workload"]
    workload.parent.mkdir(exist_ok=True)
    write_lengths(draw_even_lengths(), workload)
    words = ("measure", QUARTERS_PREDICTED, "--json", fresh(setting, "quarters"))
    sliced = python("tools/gpu_slices.py", "--slices", QUARTERS, "--")
    shared = ("--stages-per-gpu", QUARTERS, "--activations", "host")
    return [*sliced, *python("tools/paper_setting.py", *words, *shared)]


def read_quarters(setting: Setting, printed: str) -> list[Figure]:
    """A quarter whose neighbours wait has more than a quarter's bandwidth, so that predictions are
    exceeded; the policies' order is what is judged."""
    predicted = load(QUARTERS_PREDICTED)["predictions"]
    rates = rates_of(load_json(setting, "quarters"))
    figures = []
    for policy, rate in rates.items():
        figures.append(speed(f"{policy}, measured", rate, "tokens/s in and out"))
        ratio = rate / predicted[policy]["tokensPerSecond"]
        figures.append(speed(f"{policy}, measured over predicted", ratio, ""))
    return [*figures, at_least("fused over vllm", rates["fused"] / rates["vllm"], LEAST_GAIN)]


def load(path: Path) -> Json:
    document: Json = json.loads(path.read_text("utf-8"))
    return document


def rates_of(report: Json) -> dict[str, float]:
    """By policy."""
    return {one["name"]: rate_of(one) for one in report["pipemax"]}


def rate_of(measured: Json) -> float:
    """In and out, of the whole run."""
    run = measured["runs"][0]
    return float((run["num_prompt_tokens"] + run["num_generated_tokens"]) / run["seconds"])


def read_policies(setting: Setting, printed: str) -> list[Figure]:
    predicted = load_json(setting, "predictions")["predictions"]
    rates = rates_of(load_json(setting, "policies"))
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


QUARTERS_PART = Part(
    "quarters", "eight stages on quarters of two cards (CUDA MPS): rotation where it counts", 420.0,
    _quarters, read_quarters, min_gpus=2, runs_on_cpu=False, environment=NO_PEERS,
)  # fmt: skip
PREDICT = Part(
    "predict", "the planner's predictions for this machine, before the measurement", 120.0,
    _predict, read_predictions,
)  # fmt: skip
MEASURE = Part(
    "policies", "vllm, pipemax, fused and tdpipe in the same processes, as predicted", 420.0,
    _measure, read_policies, environment=NO_PEERS,
)  # fmt: skip
