"""What the schema alone cannot say, as CEL: rules over several fields, and what may not change.

Each rule over several fields repeats a ``broken_rules`` of ``pipemax_worker.job``; a test applies
both to the same jobs. ``PATH`` is dotted, from ``spec`` on; ``[]`` is a list's item.
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """A CEL rule at ``path`` of the schema; ``field`` (relative to it) is where the fault shows."""

    path: str
    rule: str
    message: str
    field: str | None = None


_SCHEMES = (
    r"!self.contains('://') || self.matches('^(?i:hostpath)://(/[^/]|/$)') || "
    r"self.matches('^(?i:file)://(localhost)?/') || "
    r"self.matches('^(?i:pvc)://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/|$)') || "
    r"self.matches('^(?i:s3)://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/|$)')"
)
_FORMS = "expected a path, hostPath:///path, file:///path, pvc://claim/path or s3://bucket/key"
_NO_PARENT = (
    r"!self.matches('^(?i:hostpath|pvc)://') || !self.matches('(^|/)[.][.](/|$)')",
    "expected a path without '..'",
)
_SPACES = (r"self.trim() == self", "expected no spaces around it")
_NO_GLOB = (r"!self.matches('[*?\\[]')", "expected a single folder, without the wildcards * ? [")

_FOLDERS = ("spec.model.uri", "spec.output.uri", "spec.resumeFrom")

# Rules for each of up to 1,024 places would cost the API server too much as CEL: patterns do.
PLACE_PATTERNS: tuple[str, ...] = (
    r"^([^:]|:[^/]|:/[^/])*$|^(?i:hostpath):///|^(?i:file)://(localhost)?/|"
    r"^(?i:pvc)://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/|$)|"
    r"^(?i:s3)://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/|$)",
    r"^\S(.*\S)?$",
)
UNIQUE_LISTS = ("spec.input.uris", "spec.model.aliases")

# What a record's text depends on, and what a pod was built with: another value is another job.
# What may change: suspend, deadline, startDeadline, ttlSecondsAfterFinished, nodeLoss.policy and
# nodeLoss.replaceAfter at once; parallelism.nodes, for workers share the input as it comes;
# errorPolicy and nodeLoss.takeOverAfter for workers that start afterwards.
IMMUTABLE_FIELDS = (
    "model",
    "input",
    "output",
    "sampling",
    "engine",
    "kvCache",
    "resumeFrom",
    "credentials",
    "scheduling",
    "image",
    "gracePeriodSeconds",
)


def _place_rules() -> list[Rule]:
    rules = []
    for path in ("spec.input.uri", *_FOLDERS):
        rules.append(Rule(path, _SCHEMES, _FORMS))
        rules.append(Rule(path, *_NO_PARENT))
        rules.append(Rule(path, *_SPACES))
    rules += [Rule(path, *_NO_GLOB) for path in _FOLDERS]
    return rules


def _transition_rules() -> list[Rule]:
    return [
        *(_unchangeable("spec", name) for name in IMMUTABLE_FIELDS),
        *(_unchangeable("spec.parallelism", name) for name in ("stagesPerNode", "layersPerStage")),
    ]


def _unchangeable(path: str, name: str) -> Rule:
    return Rule(
        path,
        f"has(self.{name}) == has(oldSelf.{name}) && "
        f"(!has(self.{name}) || self.{name} == oldSelf.{name})",
        f"{path}.{name} cannot be changed: make a new InferenceJob",
        f".{name}",
    )


CEL_RULES: tuple[Rule, ...] = (
    *_place_rules(),
    Rule("spec.input", "has(self.uri) != has(self.uris)", "expected exactly one of uri, uris"),
    Rule(
        "spec",
        "!has(self.input.uri) || self.input.uri != self.output.uri",
        "expected another place than the input",
        ".output.uri",
    ),
    Rule(
        "spec",
        "!has(self.input.uris) || !(self.output.uri in self.input.uris)",
        "expected another place than the input",
        ".output.uri",
    ),
    Rule(
        "spec",
        "self.parallelism.nodes <= 1 || self.output.shared || "
        "self.output.uri.matches('^(?i:s3|pvc)://')",
        "several nodes need a store that they share: pvc:// or s3://, or shared: true if this path "
        "is the same folder on all of them",
        ".output.uri",
    ),
    Rule(
        "spec",
        "!has(self.nodeLoss.policy) || self.nodeLoss.policy != 'Replace' || self.output.shared || "
        "self.output.uri.matches('^(?i:s3|pvc)://')",
        "expected Wait: the output is on the lost node alone (shared: true says that its path is "
        "the same folder on all nodes)",
        ".nodeLoss.policy",
    ),
    Rule(
        "spec.parallelism",
        "!has(self.stagesPerNode) || !has(self.layersPerStage) || "
        "size(self.layersPerStage) == self.stagesPerNode",
        "expected one number for each of the stages that stagesPerNode says",
        ".layersPerStage",
    ),
    Rule(
        "spec.sampling",
        "!has(self.maxTokens) || self.minTokens <= self.maxTokens",
        "expected at most maxTokens",
        ".minTokens",
    ),
    Rule(
        "spec.model",
        "!has(self.revision) || self.uri.matches('^[A-Za-z0-9][A-Za-z0-9_.-]*"
        "(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$')",
        "expected only with a hub id",
        ".revision",
    ),
    Rule(
        "spec.model",
        "!has(self.name) || !(self.name in self.aliases)",
        "expected another name than the model's own",
        ".aliases",
    ),
    Rule(
        "spec.kvCache",
        "!has(self.nvme) || (type(self.host) == int ? int(self.host) > 0 : "
        "!string(self.host).matches('^0+([.]0+)?([kMGTP]|[KMGTP]i)?$'))",
        "found 0, expected more: the NVMe tier is reached through host memory",
        ".host",
    ),
    Rule(
        "spec.kvCache.nvme",
        "[has(self.hostPath), has(self.persistentVolumeClaim), has(self.emptyDir)]"
        ".filter(given, given).size() == 1",
        "expected exactly one of hostPath, persistentVolumeClaim, emptyDir",
    ),
    Rule(
        "spec.scheduling.tolerations[]",
        "self.operator != 'Exists' || !has(self.value) || self.value == ''",
        "expected no value: operator Exists matches every value",
    ),
    Rule(
        "spec.scheduling.tolerations[]",
        "self.operator == 'Exists' || has(self.key)",
        "key is missing; only operator Exists may leave it out",
    ),
    Rule(
        "spec.scheduling.tolerations[]",
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        "tolerationSeconds: expected only with effect NoExecute",
    ),
    *_transition_rules(),
)
