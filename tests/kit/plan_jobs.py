"""Job files for plans: shapes of models that are not here."""

from __future__ import annotations

from pathlib import Path

SHAPES = Path(__file__).parents[2] / "tools" / "shapes"


def plan_job(model: Path | str, further: str) -> str:
    """``further``: one more line of the spec, as YAML."""
    return f"""\
apiVersion: pipemax.dev/v1alpha1
kind: InferenceJob
metadata: {{name: planned}}
spec:
  model: {{uri: {model}}}
  input: {{uri: prompts.jsonl}}
  output: {{uri: out/}}
  {further}
"""
