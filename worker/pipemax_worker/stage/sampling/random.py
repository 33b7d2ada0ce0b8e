"""Random numbers that are a function of (seed, position) alone.

No generator, no state: a request draws the same numbers whatever batch, micro-batch or stage count
it meets, and after it was preempted, parked or moved to another node.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_INCREMENT = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
    OOPSLA 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits for output position ``position`` (from 0).

    The seed is mixed first, so that neighbouring seeds do not yield shifted copies of one sequence.
    """
    start = _mix((seed + _INCREMENT) & _MASK)
    bits = _mix((start + (position + 1) * _INCREMENT) & _MASK)
    return (bits >> 11) / (1 << 53)
