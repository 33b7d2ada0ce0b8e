"""How far off the engine's estimator is over the decode steps of a measured run.

    python tools/estimator_error.py figures.json --model tools/shapes/Qwen2.5-14B

``figures.json``: of ``pipemax bench --json``. The steady steps of each run are gone through in
their order as an engine would see them: predicted, measured, learned from. Rows: of the last 100
decode steps the share within 5 % and the worst error, by the estimator that runs use (a roofline of
the card, corrected online) and by the paper's linear form, fitted to the decode steps before those.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from pipemax_worker.contract.geometry import KVGeometry  # noqa: E402
from pipemax_worker.contract.model_config import ModelConfig, load_model_config  # noqa: E402
from pipemax_worker.performance.batch_shape import BatchShape  # noqa: E402
from pipemax_worker.performance.hardware import profile_for_device  # noqa: E402
from pipemax_worker.performance.linear_cost import fit_linear  # noqa: E402
from pipemax_worker.performance.roofline import RooflineEstimator  # noqa: E402
from pipemax_worker.performance.stage_costs import derive_stage_costs  # noqa: E402

NUM_JUDGED = 100
CLOSE = 0.05
Steps = list[tuple[BatchShape, float]]
"""Shape and measured seconds, in the order in which they ran."""


def read_decode_steps(run: dict[str, Any]) -> Steps:
    steady = run["steady"]
    steps = [] if steady is None else steady["steps"]
    return [
        (BatchShape(one["num_tokens"], one["num_kv_tokens"], one["num_requests"]), one["seconds"])
        for one in steps
        if one["num_prefill_tokens"] == 0 and one["num_tokens"]
    ]


def corrected_errors(steps: Steps, config: ModelConfig, layers: Sequence[int]) -> list[float]:
    """Of each step, predicted before it is learned from, on the stage with the most layers."""
    stage = max(range(len(layers)), key=lambda number: layers[number])
    geometry = KVGeometry(
        16, "bfloat16", config.num_key_value_heads, config.head_dim, tuple(layers), 0, 0, 0
    )
    costs = derive_stage_costs(config, geometry, "bfloat16")
    estimator = RooflineEstimator(profile_for_device("cuda"), costs[stage : stage + 1])
    errors = []
    for shape, seconds in steps:
        errors.append(abs(estimator.predict(shape) - seconds) / seconds)
        estimator.observe(shape, 0, seconds)
    return errors


def linear_errors(steps: Steps) -> list[float]:
    fit = fit_linear(steps[:-NUM_JUDGED])
    return [
        abs(fit.alpha * shape.num_tokens + fit.beta * shape.num_kv_tokens + fit.delta - seconds)
        / seconds
        for shape, seconds in steps[-NUM_JUDGED:]
    ]


def describe(name: str, errors: Sequence[float]) -> str:
    judged = sorted(errors[-NUM_JUDGED:])
    close = sum(error <= CLOSE for error in judged) / len(judged)
    median = judged[len(judged) // 2]
    return f"  {name:<10} within 5 % {close:4.0%}   median {median:5.1%}   worst {judged[-1]:5.1%}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path)
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    config = load_model_config(options.model)
    for one in json.loads(options.figures.read_text("utf-8"))["pipemax"]:
        run = one["runs"][0]
        steps = read_decode_steps(run)
        if len(steps) < 2 * NUM_JUDGED:
            print(f"{one['name']}: {len(steps)} steady decode steps are too few")
            continue
        print(f"{one['name']}: the last {NUM_JUDGED} of {len(steps)} decode steps")
        print(describe("corrected", corrected_errors(steps, config, run["layers_of_stage"])))
        print(describe("linear", linear_errors(steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
