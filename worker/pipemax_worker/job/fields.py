"""The fields of an InferenceJob by their place in the YAML, for messages that suggest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pipemax_worker.job.document import Location
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.section import Section


def allowed_fields(location: Location) -> tuple[str, ...]:
    """Names, as written in YAML, of the fields of the section at ``location``."""
    section = _section_at(location)
    return tuple(_field_names(section)) if section else ()


def allowed_words(location: Location) -> tuple[str, ...]:
    """The words that the field at ``location`` chooses from."""
    section = _section_at(location[:-1])
    if section is None:
        return ()
    name = _field_names(section)[str(location[-1])]
    return _literals(section.model_fields[name].annotation)


def places_of(name: str) -> tuple[str, ...]:
    """Dotted locations of all fields called ``name``, written in whichever way."""
    return tuple(
        ".".join((*location, field))
        for location, section in _sections()
        for field in _field_names(section)
        if _plain(field) == _plain(name)
    )


def closest(name: str, allowed: Iterable[str]) -> str | None:
    """The one of ``allowed`` that was probably meant, if any."""
    plain = {_plain(choice): choice for choice in allowed}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    """``max_tokens``, ``MaxTokens`` and ``maxTokens`` are the same slip of the pen."""
    return name.replace("_", "").replace("-", "").lower()


def _field_names(section: type[Section]) -> dict[str, str]:
    """Names in YAML -> names in Python."""
    return {field.alias or name: name for name, field in section.model_fields.items()}


def _literals(annotation: Any) -> tuple[str, ...]:
    inner = get_args(annotation)
    if inner and all(isinstance(choice, str) for choice in inner):
        return inner
    return tuple(choice for part in inner for choice in _literals(part))


def _section_in(annotation: Any) -> type[Section] | None:
    """The section in ``Section``, ``Section | None`` or ``tuple[Section, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (_section_in(part) for part in get_args(annotation))
    return next((section for section in inner if section is not None), None)


def _sections(
    section: type[Section] = InferenceJob, location: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    yield location, section
    for alias, name in _field_names(section).items():
        inner = _section_in(section.model_fields[name].annotation)
        if inner is not None:
            yield from _sections(inner, (*location, alias))


def _section_at(location: Location) -> type[Section] | None:
    """Positions in lists do not count."""
    names = tuple(step for step in location if isinstance(step, str))
    return dict(_sections()).get(names)
