"""YAML as kubectl reads it, with lines; and what is no YAML, or not ours."""

import math

import pytest
from pipemax_worker.errors import JobFileError
from pipemax_worker.job.document import Fault, parse_document


def value_of(text: str) -> object:
    document = parse_document(text, "job.yaml")
    assert document.faults == []
    return document.value


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1e-3", 0.001),
        ("1.5", 1.5),
        ("-.5", -0.5),
        (".inf", math.inf),
        ("12", 12),
        ("-3", -3),
        ("0x10", 16),
        ("010", 8),
        ("08", "08"),
        ("12:30:45", "12:30:45"),
        ("2026-11-01", "2026-11-01"),
        ("yes", True),
        ("off", False),
        ("12h", "12h"),
        ("'12'", "12"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_kubectl(scalar: str, value: object) -> None:
    assert value_of(f"a: {scalar}") == {"a": value}


def test_a_key_without_a_value_is_no_key_but_is_known() -> None:
    document = parse_document("a:\nb: ~\nc: 1\n", "job.yaml")
    assert document.value == {"c": 1}
    assert document.has(("a",))
    assert not document.has(("d",))


def test_every_value_knows_its_line() -> None:
    document = parse_document("# comment\na:\n  b:\n  - x\n  - c: 1\n    d: {e:\n 2}\n", "job.yaml")
    assert document.line(("a", "b", 0)) == 4
    assert document.line(("a", "b", 1, "d")) == 6
    assert document.line(("a", "b", 1, "d", "e")) == 6
    assert document.line(("a", "b", 1, "missing", "deeper")) == 5
    assert document.value_at(("a", "b", 1, "d", "e")) == 2
    assert document.value_at(("a", "x", "y")) is None


def test_an_alias_stands_for_its_anchor() -> None:
    document = parse_document("a: &x {k: 1}\nb: *x\n", "job.yaml")
    assert document.value == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.faults == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3\n", Fault(3, ("a",), "given twice, first in line 1")),
        ("a:\na: 3\n", Fault(2, ("a",), "given twice, first in line 1")),
        ("a: {b: 1,\n b: 1}\n", Fault(2, ("a", "b"), "given twice, first in line 1")),
        ("1: x\n", Fault(1, (), "found the key 1, expected text; put it in quotes")),
        ("a:\n  on: x\n", Fault(2, ("a",), "found the key on, expected text; put it in quotes")),
        ("? [a]\n: x\n", Fault(1, (), "found a key that is no text, expected the name of a field")),
        (
            "a: &x {k: 1}\nb:\n  <<: *x\n",
            Fault(3, ("b",), "merge keys (<<) are not supported, write the fields out"),
        ),
    ],
)
def test_faults_of_the_yaml_itself(text: str, fault: Fault) -> None:
    assert parse_document(text, "job.yaml").faults == [fault]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "job.yaml: the file is empty"),
        ("# only a comment\n---\n", "job.yaml: the file is empty"),
        ("a: 1\n---\nb: 1\n", "job.yaml:3: a second document begins here"),
        ("a: [1, 2\nb: 3\n", "job.yaml:2:2: not YAML: while parsing a flow sequence"),
        ("a: 1\n\tb: 2\n", "job.yaml:2:1: not YAML: "),
        ("a: *missing\n", "job.yaml:1:4: not YAML: found undefined alias"),
        ("a: 1\nb: !mine x\n", "job.yaml:2:4: not YAML: could not determine a constructor"),
        ("a: 1\nb: !!int x\n", "job.yaml:2:4: not YAML: invalid literal"),
        ("a: 1\nb: \x07\n", "job.yaml:2: not YAML: character '\\x07' is not allowed"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: &x [*x]\n", "nested too deeply"),
    ],
)
def test_what_is_no_document(text: str, message: str) -> None:
    with pytest.raises(JobFileError) as refused:
        parse_document(text, "job.yaml")
    assert message in str(refused.value)


def test_empty_documents_around_the_only_one_do_not_count() -> None:
    assert value_of("---\n---\na: 1\n---\n") == {"a": 1}


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(JobFileError, match="more than 100000 values"):
        parse_document("\n".join(lines), "job.yaml")
