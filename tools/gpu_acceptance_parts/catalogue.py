"""All parts, in the order of what they are worth where time runs out."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_acceptance_parts import checks, policies, speeds, steps
from gpu_acceptance_parts.part import Part

PARTS: tuple[Part, ...] = (
    checks.KERNELS,
    checks.REPLAY,
    checks.QUICKSTART,
    steps.STEPS[0],
    steps.STEPS[1],
    speeds.SWAP,
    speeds.W1_BENCH,
    speeds.W1_JOB,
    speeds.DETECT,
    policies.PREDICT,
    policies.MEASURE,
    policies.QUARTERS_PART,
    checks.TRANSFORMERS,
    checks.STOP_RESUME,
    *steps.STEPS[2:],
    speeds.NVME,
    speeds.COPIES,
    checks.AGREEMENT,
)


def choose(names: Sequence[str] | None) -> list[Part]:
    """Those named, by their own names or by the first word of several, in the catalogue's order;
    None: all. Raises ValueError for a name of none."""
    if names is None:
        return list(PARTS)
    for name in names:
        if not any(part.is_named_by(name) for part in PARTS):
            known = ", ".join(part.name for part in PARTS)
            raise ValueError(f"there is no part {name!r}; there are {known}")
    return [part for part in PARTS if any(part.is_named_by(name) for name in names)]
