"""Two jobs are the same if their parts are; if not, the difference is said in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.dataset.fingerprint import (
    Change,
    build_fingerprint,
    describe_changes,
    diff_values,
    digest_json,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def test_the_order_of_fields_does_not_matter() -> None:
    one = build_fingerprint(model={"a": 1, "b": [1, 2]}, parameters={"t": 0.5})
    other = build_fingerprint(parameters={"t": 0.5}, model={"b": (1, 2), "a": 1})
    assert one == other
    assert one.digest == other.digest
    assert set(one.digests) == {"model", "parameters"}


def test_a_change_is_named_by_its_field() -> None:
    old = {"model": {"dtype": "float32"}, "parameters": {"temperature": 0, "seed": 1}}
    new = {"model": {"dtype": "float32"}, "parameters": {"temperature": 0.7, "top_p": 0.9}}
    changes = diff_values(old, new)
    assert changes == (
        Change("parameters.seed", 1, None),
        Change("parameters.temperature", 0, 0.7),
        Change("parameters.top_p", None, 0.9),
    )
    assert describe_changes(changes) == (
        "parameters.seed: was 1, is not set; parameters.temperature: was 0, is 0.7; "
        "parameters.top_p: was not set, is 0.9"
    )


def test_many_or_long_changes_stay_readable() -> None:
    changes = diff_values({}, {f"f{number:03d}": "x" * 1000 for number in range(100)})
    text = describe_changes(changes)
    assert text.endswith("and 92 more")
    assert len(text) < 1500


def test_true_is_not_one() -> None:
    assert diff_values({"a": True}, {"a": 1}) == (Change("a", True, 1),)


@given(_JSON, _JSON)
def test_equal_digests_mean_no_difference(old: object, new: object) -> None:
    assert diff_values(old, old) == ()
    if digest_json(old) == digest_json(new):
        assert diff_values(old, new) == ()


@given(st.dictionaries(st.text(max_size=3), st.integers()), st.text(max_size=3), st.integers())
def test_one_changed_field_is_found(parts: dict[str, int], field: str, value: int) -> None:
    changed = {**parts, field: value}
    expected = () if parts.get(field) == value else (Change(field, parts.get(field), value),)
    assert diff_values(parts, changed) == expected
    assert (digest_json(parts) == digest_json(changed)) == (not expected)
