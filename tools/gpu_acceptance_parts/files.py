"""Files of figures that tools write, in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from make_workload import draw_lengths, write_lengths

from gpu_acceptance_parts.part import Setting

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
}
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


def small_shape(setting: Setting, shape: Path) -> Path:
    """A folder with the same architecture's ``config.json``, small."""
    folder = setting.scratch / f"small-{shape.name}"
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((shape / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | SMALL), encoding="utf-8")
    return folder
