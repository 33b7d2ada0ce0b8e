"""RoPE parameters of a ``config.json``, in the spellings of transformers 4 and 5."""

from __future__ import annotations

from typing import Any

from pipemax_worker.errors import UnsupportedModelError

SUPPORTED_ROPE_TYPES = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
"""RoPE types, and the parameters that each cannot do without."""


def read_rope_parameters(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """``rope_parameters`` since transformers 5; ``rope_scaling`` and ``rope_theta`` before.

    Raises UnsupportedModelError; ``where`` names the file.
    """
    parameters = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    old_name = parameters.pop("type", None)
    rope_type = parameters.setdefault("rope_type", old_name or "default")
    if parameters.get("rope_theta") is None:
        parameters["rope_theta"] = fields.get("rope_theta") or 10000.0
    is_nested = any(isinstance(value, dict) for value in parameters.values())
    if rope_type not in SUPPORTED_ROPE_TYPES or is_nested:
        raise UnsupportedModelError(
            f"{where}: RoPE parameters {parameters} are not supported; supported: one set for all "
            f"layers, of type {', '.join(SUPPORTED_ROPE_TYPES)}"
        )
    missing = [name for name in SUPPORTED_ROPE_TYPES[rope_type] if parameters.get(name) is None]
    if missing:
        raise UnsupportedModelError(
            f"{where}: RoPE type {rope_type!r} needs {', '.join(missing)}, which is missing"
        )
    if (parameters.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModelError(
            f"{where}: partial_rotary_factor {parameters['partial_rotary_factor']} is not "
            "supported; supported: 1.0"
        )
    return parameters


def longest_context(fields: dict[str, Any], rope_parameters: dict[str, Any]) -> int:
    """Positions that the model is run with; see ``ModelConfig.max_position_embeddings``."""
    longest = int(fields["max_position_embeddings"])
    if rope_parameters["rope_type"] != "longrope":
        return longest
    original = rope_parameters.get("original_max_position_embeddings") or fields.get(
        "original_max_position_embeddings"
    )
    return min(longest, int(original)) if original else longest
