"""Write docs/inferencejob.md, the reference of the job file, from its models.

python tools/generate_docs.py            write it
python tools/generate_docs.py --check    exit 1 if the file is not what would be written
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipemax_worker.job import json_schema
from pipemax_worker.job.names import PATTERN_WORDS
from pipemax_worker.job.quantities import (
    DURATION_PATTERN,
    MAX_QUANTITY_BYTES,
    format_duration,
    format_quantity,
)

PAGE = Path(__file__).parent.parent / "docs" / "inferencejob.md"

Schema = dict[str, Any]

INTRODUCTION = """\
# InferenceJob: the job file

Generated from `worker/pipemax_worker/job/` by `tools/generate_docs.py`; do not edit.

An InferenceJob runs a model over a file of requests and writes one record for each. The same file
is for `pipemax run FILE` and for `kubectl apply -f FILE`. Only the model, the input and the output
are required:

```yaml
apiVersion: pipemax.dev/v1alpha1
kind: InferenceJob
metadata:
  name: reviews
spec:
  model: {uri: models/my-model}
  input: {uri: prompts.jsonl}
  output: {uri: out}
```

A longer one, for four nodes of eight GPUs:

```yaml
apiVersion: pipemax.dev/v1alpha1
kind: InferenceJob
metadata:
  name: reviews
spec:
  model:
    uri: hostPath:///models/llama-2-70b-chat
    aliases: [gpt-4o-mini]
  input: {uri: "pvc://datasets/reviews/*.jsonl"}
  output: {uri: "s3://results/reviews/"}
  sampling: {temperature: 0, maxTokens: 512}
  parallelism: {nodes: 4, stagesPerNode: 8}
  kvCache:
    host: 200Gi
    nvme: {hostPath: /mnt/nvme/pipemax, size: 1Ti}
  errorPolicy: {maxFailedPercent: 1}
  deadline: 12h
```

`pipemax validate FILE` checks a file. A wrong one is refused with exit code 78 and a line for each
fault:

    job.yaml:9: spec.kvCache.nvme.size: found '1Tib', expected a quantity such as 200Gi or 1Ti

## How values are written

- **Places**: a path (a relative one starts at the job file's folder), `file:///path`,
  `hostPath:///path` (the node's disk, mounted into the pod), `pvc://claim/path` (a
  PersistentVolumeClaim; outside a cluster `--mount CLAIM=PATH` says where it is), or
  `s3://bucket/key`.
- **Quantities** are bytes: a number, or one with a suffix: `Ki Mi Gi Ti Pi` (powers of 1024) or
  `k M G T P` (powers of 1000), such as `200Gi` or `1.5Ti`.
- **Durations**: days, hours, minutes and seconds in this order, such as `12h` or `1d12h`, or a
  number of seconds.
- A field without a value is the same as none. Unknown fields and repeated keys are refused.
"""


def render() -> str:
    """The whole page."""
    return "\n".join((INTRODUCTION, *_sections(json_schema(), "InferenceJob", ""))) + "\n"


def _sections(section: Schema, heading: str, path: str) -> Iterator[str]:
    """The table of ``section`` and, depth first, of all sections in it."""
    yield f"## {heading}\n\n{section['description']}\n"
    inner = section.get("properties", {})
    if inner:
        yield _table(section, path)
    for name, field in inner.items():
        nested = _nested(field)
        if nested is not None:
            location = f"{path}.{name}" if path else name
            described = {**nested, "description": field["description"]}
            yield from _sections(described, location, location)


def _nested(field: Schema) -> Schema | None:
    """The section that a field holds, directly or as the entries of a list."""
    schema = field.get("items", field)
    return schema if schema.get("properties") else None


def _table(section: Schema, path: str) -> str:
    rows = ["| Field | Type | Default | Allowed | Description |", "|---|---|---|---|---|"]
    for name, field in section["properties"].items():
        location = f"{path}.{name}" if path else name
        default = "**required**" if name in section.get("required", ()) else _default(field)
        description = field["description"]
        if _nested(field) is not None:
            description = f"{_first_sentence(description)} See [{location}](#{_anchor(location)})."
        cells = (f"`{name}`", _type(field), default, _allowed(field), description)
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def _anchor(heading: str) -> str:
    return heading.replace(".", "").lower()


def _type(field: Schema) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "duration" if field["pattern"] == DURATION_PATTERN else "quantity"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if field["type"] == "object":
        return "map of text" if "additionalProperties" in field else "section"
    names = {"integer": "whole number", "boolean": "true or false", "string": "text"}
    return str(names.get(field["type"], field["type"]))


def _default(field: Schema) -> str:
    default = field.get("default")
    if default is None or default == []:
        return "-"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _allowed(field: Schema) -> str:
    if "enum" in field:
        return ", ".join(f"`{word}`" for word in field["enum"])
    words = [*_range(field), *_lengths(field)]
    if field.get("pattern") in PATTERN_WORDS:
        words.append(PATTERN_WORDS[field["pattern"]])
    if "items" in field and not field["items"].get("properties"):
        inner = _allowed(field["items"])
        words += [f"each {inner}"] if inner else []
    return "; ".join(words)


def _range(field: Schema) -> Iterator[str]:
    least, most = field.get("minimum"), field.get("maximum")
    if least is None or most is None:
        return
    write: Callable[[int], str] = str
    if "x-kubernetes-int-or-string" in field:
        is_duration = field["pattern"] == DURATION_PATTERN
        write = format_duration if is_duration else format_quantity
    if most >= MAX_QUANTITY_BYTES:
        yield f"at least {write(least)}"
    elif field.get("exclusiveMinimum"):
        yield f"above {write(least)}, at most {write(most)}"
    else:
        yield f"{write(least)} to {write(most)}"


def _lengths(field: Schema) -> Iterator[str]:
    for key, unit in (("maxLength", "characters"), ("maxItems", "entries")):
        if key in field:
            yield f"at most {field[key]} {unit}"
    if "maxProperties" in field:
        yield f"at most {field['maxProperties']} entries"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    arguments = parser.parse_args()
    page = render()
    if not arguments.check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        print(f"{PAGE.name} is not what the models say; run tools/generate_docs.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
