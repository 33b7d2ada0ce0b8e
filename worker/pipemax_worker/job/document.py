"""A YAML text as plain values that remember their lines. Knows nothing of InferenceJobs.

Reads what kubectl reads: YAML 1.1 scalars, but ``1e-3`` is a number and ``1:30`` or a date is text.
As with the API server, a field without a value is no field. Stricter in two points: a key given
twice and a merge key (``<<``) are faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import yaml

from pipemax_worker.errors import JobFileError

Location = tuple[int | str, ...]

MAX_VALUES = 100_000


class Fault(NamedTuple):
    """One thing that is wrong. ``location`` is the path of keys and list positions."""

    line: int
    location: Location
    message: str


class Document:
    """``value``: dictionaries, lists, scalars. ``faults``: what is wrong with the YAML itself."""

    def __init__(self, value: object, lines: dict[Location, int], faults: list[Fault]) -> None:
        self.value = value
        self.faults = faults
        self._lines = lines

    def line(self, location: Location) -> int:
        """The line of ``location``, or of what holds it where it is not in the text."""
        while location and location not in self._lines:
            location = location[:-1]
        return self._lines.get(location, 1)

    def value_at(self, location: Location) -> object:
        """The value at ``location``; None where there is none."""
        value = self.value
        for step in location:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int):
                value = value[step]
            else:
                return None
        return value

    def has(self, location: Location) -> bool:
        """Whether the text holds ``location``, with a value or without."""
        return location in self._lines


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of the YAML library behind kubectl."""


_REPLACED_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "int", "float", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0|[1-9][0-9_]*|0[0-7_]+|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"([-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def parse_document(text: str, source_name: str) -> Document:
    """Raises JobFileError: no YAML (with line and column), no or several documents."""
    try:
        loader = _Loader(text)
        node = _single_document(_compose_all(loader), source_name)
        return _Reader(loader, source_name).read(node)
    except yaml.MarkedYAMLError as error:
        raise JobFileError(_syntax_message(error, source_name)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise JobFileError(
            f"{source_name}:{line}: not YAML: character {chr(error.character)!r} is not allowed"
        ) from None
    except RecursionError:
        raise JobFileError(f"{source_name}: not a job file: nested too deeply") from None


def _compose_all(loader: _Loader) -> Iterator[yaml.Node]:
    while loader.check_node():
        node = loader.get_node()
        if node is not None:
            yield node


def _single_document(nodes: Iterable[yaml.Node], source_name: str) -> yaml.Node:
    filled = [
        node for node in nodes if not (isinstance(node, yaml.ScalarNode) and node.value == "")
    ]
    if not filled:
        raise JobFileError(f"{source_name}: the file is empty, expected an InferenceJob")
    if len(filled) > 1:
        raise JobFileError(
            f"{source_name}:{filled[1].start_mark.line + 1}: a second document begins here, "
            "expected one InferenceJob in a file"
        )
    return filled[0]


def _syntax_message(error: yaml.MarkedYAMLError, source_name: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    parts = [part for part in (error.context, error.problem, error.note) if part]
    return f"{source_name}{where}: not YAML: {', '.join(parts)}"


class _Reader:
    """Walks the nodes once, building values, lines and faults. Aliases are walked where they stand,
    so the number of values is bounded."""

    def __init__(self, loader: _Loader, source_name: str) -> None:
        self._loader = loader
        self._source_name = source_name
        self._lines: dict[Location, int] = {}
        self._faults: list[Fault] = []
        self._num_values = 0

    def read(self, node: yaml.Node) -> Document:
        self._lines[()] = node.start_mark.line + 1
        return Document(self._value(node, ()), self._lines, self._faults)

    def _value(self, node: yaml.Node, location: Location) -> object:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise JobFileError(
                f"{self._source_name}: not a job file: more than {MAX_VALUES} values"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, location)
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> object:
        try:
            return self._loader.construct_object(node)
        except ValueError as error:  # such as the int 08
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None

    def _sequence(self, node: yaml.SequenceNode, location: Location) -> list[object]:
        values = []
        for position, item in enumerate(node.value):
            self._lines[(*location, position)] = item.start_mark.line + 1
            values.append(self._value(item, (*location, position)))
        return values

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, location, line)
            if key is None:
                continue
            inner = (*location, key)
            if inner in self._lines:
                self._faults.append(
                    Fault(line, inner, f"given twice, first in line {self._lines[inner]}")
                )
                continue
            self._lines[inner] = line
            value = self._value(value_node, inner)
            if value is not None:
                values[key] = value
        return values

    def _key(self, node: yaml.Node, location: Location, line: int) -> str | None:
        if node.tag.endswith(":merge"):
            message = "merge keys (<<) are not supported, write the fields out"
        elif not isinstance(node, yaml.ScalarNode):
            message = "found a key that is no text, expected the name of a field"
        elif isinstance(key := self._scalar(node), str):
            return key
        else:
            message = f"found the key {node.value}, expected text; put it in quotes"
        self._faults.append(Fault(line, location, message))
        return None
