"""The simulator against what was measured: vLLM, tuned, on four capped H200s."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[4] / "tools" / "calibrate_planner.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibrate_planner", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_vllm_is_predicted_within_a_tenth(tool: ModuleType) -> None:
    """A quarter of W1, whose steady part is long enough; `tools/calibrate_planner.py` runs all."""
    tuned = next(entry for entry in tool.MEASURED if entry.name == "tuned")
    result = tool.simulate_vllm(tuned, 250)
    assert result.steady_output_tokens_per_second == pytest.approx(tuned.steady, rel=0.1)
