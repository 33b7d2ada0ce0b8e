"""Job files as text: the shortest one, and one with more said in its spec."""

from __future__ import annotations

import textwrap

SHORTEST_JOB = """\
apiVersion: pipemax.dev/v1alpha1
kind: InferenceJob
metadata:
  name: reviews
spec:
  model: {uri: models/tiny}
  input: {uri: prompts.jsonl}
  output: {uri: out}
"""

# The line of the first thing that `make_job_text` adds.
FIRST_ADDED_LINE = SHORTEST_JOB.count("\n") + 1


def make_job_text(spec: str) -> str:
    """The shortest job with the YAML ``spec`` added to its spec, from ``FIRST_ADDED_LINE`` on."""
    return SHORTEST_JOB + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"
