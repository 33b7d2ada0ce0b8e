"""Bytes in words."""

from __future__ import annotations


def describe_bytes(num_bytes: float) -> str:
    """Binary units: ``17.3 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
