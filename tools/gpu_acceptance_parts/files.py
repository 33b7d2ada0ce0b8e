"""Files of figures that tools write, in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from make_workload import draw_lengths, write_lengths

from gpu_acceptance_parts.part import Setting

LONGEST_ON_CPU = 24
REQUESTS_ON_CPU = 60


def fresh(setting: Setting, name: str, suffix: str = "json") -> Path:
    """Where a tool is to write; what an earlier run has left there goes."""
    path = setting.file(f"{name}.{suffix}")
    path.unlink(missing_ok=True)
    return path


def load_json(setting: Setting, name: str) -> Any:
    return json.loads(setting.file(f"{name}.json").read_text("utf-8"))


def write_w1(setting: Setting) -> Path:
    """The workload W1; on a CPU the first of it, with lengths divided by twenty."""
    lengths = draw_lengths()
    if setting.is_cpu:
        lengths = [
            (max(1, prompt // 20), max(4, min(output // 20, LONGEST_ON_CPU)))
            for prompt, output in lengths[:REQUESTS_ON_CPU]
        ]
    setting.scratch.mkdir(parents=True, exist_ok=True)
    path = setting.scratch / "w1.jsonl"
    write_lengths(lengths, path)
    return path
