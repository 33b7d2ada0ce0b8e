"""Typed reading of a JSON object, field by field, with errors that name the field."""

from __future__ import annotations

from typing import Any

from pipemax_worker.errors import RequestError

_JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}
_SHOWN_CHARACTERS = 60


def describe(value: object) -> str:
    """A JSON value for an error message: its type, and its text where that is short."""
    kind = _JSON_TYPES.get(type(value), type(value).__name__)
    if isinstance(value, (dict, list)) or value is None:
        return kind
    text = repr(value)
    return f"{kind}, {text}" if len(text) <= _SHOWN_CHARACTERS else kind


def invalid_type(param: str, expected: str, value: object) -> RequestError:
    """The error for a value of another JSON type than ``expected``; no ``param``: the line."""
    message = f"{param or 'the line'} must be {expected}; found {describe(value)}"
    return RequestError("invalid_type", message, param or None)


def checked_integer(value: object, param: str, minimum: int, maximum: int) -> int:
    """``value`` as an integer between the bounds, both included. Booleans are no integers."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_type(param, "an integer", value)
    if not minimum <= value <= maximum:
        raise _out_of_range(param, value, f"from {minimum} to {maximum}")
    return value


def checked_number(value: object, param: str, minimum: float, maximum: float) -> float:
    """``value`` as a float between the bounds, both included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid_type(param, "a number", value)
    if not minimum <= value <= maximum:
        raise _out_of_range(param, value, f"from {minimum:g} to {maximum:g}")
    return float(value)


def checked_string(value: object, param: str) -> str:
    """``value`` as a string that is not empty."""
    if not isinstance(value, str):
        raise invalid_type(param, "a string", value)
    if not value:
        raise RequestError("invalid_value", f"{param} must not be empty", param)
    return value


def checked_list(value: object, param: str, maximum: int) -> list[Any]:
    """``value`` as a list of at most ``maximum`` elements."""
    if not isinstance(value, list):
        raise invalid_type(param, "a list", value)
    if len(value) > maximum:
        message = f"{param} has {len(value)} elements; at most {maximum} are allowed"
        raise RequestError("value_out_of_range", message, param)
    return value


def _out_of_range(param: str, value: object, allowed: str) -> RequestError:
    message = f"{param} must be {allowed}; found {describe(value)}"
    return RequestError("value_out_of_range", message, param)


class Fields:
    """A JSON object whose fields are taken one by one. What nobody took is refused at the end.

    ``path`` is the object's dotted path in the input line, empty for the line itself. A field that
    is null counts as absent. Every method raises RequestError, naming the field.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise invalid_type(path, "a JSON object", value)
        self._path = path
        self._left: dict[str, Any] = {key: v for key, v in value.items() if v is not None}

    def param(self, name: str) -> str:
        """The dotted path of a field."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:
        """The raw value, or None where the field is absent or null."""
        return self._left.pop(name, None)

    def take_required(self, name: str) -> Any:
        value = self.take(name)
        if value is None:
            param = self.param(name)
            raise RequestError("missing_field", f"{param} is missing or null", param)
        return value

    def take_string(self, name: str) -> str:
        return checked_string(self.take_required(name), self.param(name))

    def take_integer(self, name: str, default: int, minimum: int, maximum: int) -> int:
        value = self.take(name)
        if value is None:
            return default
        return checked_integer(value, self.param(name), minimum, maximum)

    def take_number(self, name: str, default: float, minimum: float, maximum: float) -> float:
        value = self.take(name)
        if value is None:
            return default
        return checked_number(value, self.param(name), minimum, maximum)

    def take_boolean(self, name: str, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid_type(self.param(name), "a boolean", value)
        return value

    def ignore(self, *names: str) -> None:
        """Accept fields without effect, whatever they hold."""
        for name in names:
            self._left.pop(name, None)

    def take_neutral(self, neutral_values: dict[str, tuple[object, ...]]) -> None:
        """Accept unsupported fields where they hold what they mean by default.

        Raises RequestError ``unsupported_parameter`` where one holds anything else.
        """
        for name, neutral in neutral_values.items():
            value = self.take(name)
            if value is None or any(type(value) is type(one) and value == one for one in neutral):
                continue
            param = self.param(name)
            raise RequestError(
                "unsupported_parameter",
                f"{param} is not supported with this value; found {describe(value)}; remove it",
                param,
            )

    def refuse_rest(self) -> None:
        """Raise RequestError ``unsupported_parameter`` if a field is left that nobody took."""
        for name in self._left:
            param = self.param(name)
            raise RequestError(
                "unsupported_parameter", f"{param} is not supported here; remove it", param
            )
