"""The CustomResourceDefinition of InferenceJob, built from ``pipemax_worker.job``. Pure.

Defaults of whole sections are written out (``{}``), so that the defaults within them apply and the
CEL rules may read them.
"""

from __future__ import annotations

import copy
from typing import Any

from pipemax_worker.job import json_schema

from pipemax_operator import names
from pipemax_operator.crd_rules import CEL_RULES, PLACE_PATTERNS, UNIQUE_LISTS, Rule
from pipemax_operator.crd_status import STATUS_SCHEMA

Schema = dict[str, Any]

_SECTIONS_WITH_DEFAULTS = (
    "sampling",
    "parallelism",
    "engine",
    "kvCache",
    "errorPolicy",
    "nodeLoss",
    "scheduling",
)

_MAX_QUANTITY_LENGTH = 48
_MAX_EXACT_INTEGER = 2**53

PRINTER_COLUMNS = (
    ("Phase", "string", ".status.phase", 0, "Where the job is."),
    ("Progress", "string", ".status.progress.percent", 0, "Share of the requests with a record."),
    ("Done", "string", ".status.progress.summary", 0, "Requests with a record, of all."),
    ("Tokens/s", "integer", ".status.progress.tokensPerSecond", 0, "Generated, all workers."),
    ("ETA", "string", ".status.progress.remaining", 0, "Time that is left at this rate."),
    # Not of the type date: kubectl prints one that is yet to come as <invalid>.
    ("Done at", "string", ".status.progress.estimatedCompletionTime", 1, "When it will be done."),
    ("Model", "string", ".spec.model.uri", 1, "The model."),
    ("Queue", "string", ".spec.scheduling.queueName", 1, "Kueue's queue."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Since it was made."),
)


SELECTABLE_FIELDS = (".status.phase", ".spec.model.uri", ".spec.scheduling.queueName")


def build_crd() -> Schema:
    """The CustomResourceDefinition as a plain document."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": ["ij", "infjob"],
                "categories": ["all", "pipemax"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": build_schema()},
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": path} for path in SELECTABLE_FIELDS],
                    "additionalPrinterColumns": [
                        {
                            "name": name,
                            "type": kind,
                            "jsonPath": path,
                            "priority": priority,
                            "description": description,
                        }
                        for name, kind, path, priority, description in PRINTER_COLUMNS
                    ],
                }
            ],
        },
    }


def build_schema() -> Schema:
    """The structural schema, spec and status, rules attached."""
    schema = copy.deepcopy(json_schema())
    properties = schema["properties"]
    name = properties["metadata"]["properties"]["name"]
    # Of metadata a CRD may bound the name alone; what else it holds is the API server's to check.
    properties["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": name["maxLength"]}},
    }
    for field in ("apiVersion", "kind"):
        properties[field].pop("enum")
    for section in _SECTIONS_WITH_DEFAULTS:
        properties["spec"]["properties"][section]["default"] = {}
    _fit_bounds(schema)
    for path in UNIQUE_LISTS:
        _find(schema, path)["x-kubernetes-list-type"] = "set"
    places = _find(schema, "spec.input.uris[]")
    places["allOf"] = [{"pattern": pattern} for pattern in PLACE_PATTERNS]
    for rule in CEL_RULES:
        _attach(schema, rule)
    properties["status"] = copy.deepcopy(STATUS_SCHEMA)
    return schema


def _find(schema: Schema, path: str) -> Schema:
    node = schema
    for part in path.split("."):
        node = node["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            node = node["items"]
    return node


def _fit_bounds(node: Schema) -> None:
    """A longest length for every quantity and duration, since the cost of a rule is estimated by
    it; and no bound that a double cannot hold, which the API server turns into a negative one."""
    if node.get("x-kubernetes-int-or-string"):
        node["maxLength"] = _MAX_QUANTITY_LENGTH
    if node.get("maximum", 0) > _MAX_EXACT_INTEGER:
        del node["maximum"]
    for child in node.get("properties", {}).values():
        _fit_bounds(child)


def _attach(schema: Schema, rule: Rule) -> None:
    node = _find(schema, rule.path)
    entry = {"rule": rule.rule, "message": rule.message}
    if rule.field is not None:
        entry["fieldPath"] = rule.field
    node.setdefault("x-kubernetes-validations", []).append(entry)
