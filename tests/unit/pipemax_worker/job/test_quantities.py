"""Quantities and durations: what they mean, what is refused, and the way back to text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.job.quantities import (
    DURATION_PATTERN,
    MAX_DURATION_SECONDS,
    MAX_QUANTITY_BYTES,
    QUANTITY_PATTERN,
    format_duration,
    format_quantity,
    parse_duration,
    parse_quantity,
)
from pydantic_core import PydanticCustomError


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        (4096, 4096),
        ("200Gi", 200 * 2**30),
        ("1Ti", 2**40),
        ("1.5Gi", 3 * 2**29),
        ("500M", 500_000_000),
        ("2k", 2000),
        ("1Ki", 1024),
        ("3P", 3 * 10**15),
        ("7Pi", 7 * 2**50),
        ("0.1", 1),  # a part of a byte rounds up, as in Kubernetes
        ("1.0000001Ki", 1025),
    ],
)
def test_a_quantity_is_bytes(text: object, num_bytes: int) -> None:
    assert parse_quantity(text) == num_bytes


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1Tib", "did you mean 1Ti?"),
        ("10GB", "did you mean 10Gi or 10G?"),
        ("10 g", "did you mean 10Gi or 10G?"),
        ("5K", "did you mean 5Ki or 5k?"),
        ("500m", "did you mean 500Mi or 500M?"),
        ("-1Gi", "such as 200Gi or 1Ti"),
        ("", "such as 200Gi or 1Ti"),
        ("Gi", "such as 200Gi or 1Ti"),
        ("1e3", "such as 200Gi or 1Ti"),
        ("1Gi\n", "such as 200Gi or 1Ti"),
        (1.5, "such as 200Gi or 1Ti"),
        (True, "such as 200Gi or 1Ti"),
        (["1Gi"], "such as 200Gi or 1Ti"),
        ("9999999999999Pi", f"at most {MAX_QUANTITY_BYTES} bytes"),
    ],
)
def test_a_wrong_quantity_is_refused_with_a_hint(text: object, hint: str) -> None:
    with pytest.raises(PydanticCustomError) as refused:
        parse_quantity(text)
    assert hint in refused.value.message()


@given(st.integers(0, MAX_QUANTITY_BYTES))
def test_a_quantity_survives_the_way_to_text(num_bytes: int) -> None:
    assert parse_quantity(format_quantity(num_bytes)) == num_bytes


@given(st.integers(1, 9999), st.sampled_from(["Ki", "Mi", "Gi", "Ti", "k", "M", "G", "T", ""]))
def test_the_way_to_text_is_never_longer_than_what_was_written(number: int, suffix: str) -> None:
    written = f"{number}{suffix}"
    assert len(format_quantity(parse_quantity(written))) <= len(written)


@given(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,9})?([kMGTP]|[KMGTP]i)?", fullmatch=True))
def test_schema_and_parser_allow_the_same(text: str) -> None:
    assert re.fullmatch(QUANTITY_PATTERN, text)
    assert parse_quantity(text) >= 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12h", 43_200), ("30m", 1_800), ("1d12h", 129_600), ("1d2h3m4s", 93_784), (90, 90)],
)
def test_a_duration_is_seconds(text: object, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "12", "12 h", "1.5h", "h", "1h1d", "1h2h", "-1h", True, 1.5])
def test_a_wrong_duration_is_refused(text: object) -> None:
    with pytest.raises(PydanticCustomError) as refused:
        parse_duration(text)
    assert "expected a duration such as 12h" in refused.value.message()


@given(st.integers(0, MAX_DURATION_SECONDS))
def test_a_duration_survives_the_way_to_text(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.from_regex(DURATION_PATTERN, fullmatch=True).map(str.strip).filter(bool))
def test_what_the_schema_allows_is_a_duration(text: str) -> None:
    assert parse_duration(text) >= 0
