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


@pytest.mark.parametrize(("name", "num_requests"), [("tuned", 250), ("TP=4", 600)])
def test_vllm_is_predicted_within_a_tenth(tool: ModuleType, name: str, num_requests: int) -> None:
    """So much of W1 that the steady part is long enough; `tools/calibrate_planner.py` runs all."""
    measured = next(entry for entry in tool.MEASURED if entry.name == name)
    result = tool.simulate_vllm(measured, num_requests)
    assert tool.steady_tokens_per_second(result) == pytest.approx(measured.steady, rel=0.1)
