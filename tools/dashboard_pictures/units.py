"""Numbers as Grafana writes them, for the units that the dashboards use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

_SCALE = (" K", " Mil", " Bil", " Tri")
_DECIMAL = ("k", "M", "G", "T", "P")
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi")
_SI = {"Bps": "B/s", "watt": "W", "joule": "J", "watth": "Wh"}
_SUFFIXES = {"kwatth": "kWh", "h": "hours"}
_DURATIONS = (
    (1e-6, 1e-9, " ns"),
    (1e-3, 1e-6, " µs"),
    (1.0, 1e-3, " ms"),
    (60.0, 1.0, " s"),
    (3600.0, 60.0, " mins"),
    (86400.0, 3600.0, " hours"),
    (604800.0, 86400.0, " days"),
    (float("inf"), 604800.0, " weeks"),
)


def write_value(value: float, unit: str, decimals: int | None = None) -> str:
    """``value`` with its unit; ``decimals`` are for shares. A unit that is not known stands behind
    the number, as in Grafana."""
    if unit == "percentunit":
        text = _short(value * 100) if decimals is None else f"{value * 100:.{decimals}f}"
        return f"{text}%"
    if unit == "s":
        return _duration(value)
    if unit == "dateTimeAsIso":
        return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    if unit == "bytes":
        return _scaled(value, 1024.0, tuple(f" {prefix}B" for prefix in _BINARY), " B")
    if unit in ("short", "none"):
        return _scaled(value, 1000.0, _SCALE, "")
    if unit in _SUFFIXES:
        return f"{_short(value)} {_SUFFIXES[unit]}"
    if unit in _SI:
        symbol = _SI[unit]
        return _scaled(value, 1000.0, tuple(f" {p}{symbol}" for p in _DECIMAL), f" {symbol}")
    return f"{_short(value)} {unit}"


def _duration(value: float) -> str:
    if value == 0:
        return "0 s"
    _, size, name = next(one for one in _DURATIONS if abs(value) < one[0])
    text = _short(value / size)
    return f"{text}{name.removesuffix('s') if text == '1' and size >= 60 else name}"


def _scaled(value: float, base: float, suffixes: Sequence[str], plain: str) -> str:
    suffix = plain
    for larger in suffixes:
        if abs(value) < base:
            break
        value, suffix = value / base, larger
    return f"{_short(value)}{suffix}"


def _short(value: float) -> str:
    """Three digits that count, and no noughts behind the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    if abs(value) < 0.001:
        return f"{value:.1e}"
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
