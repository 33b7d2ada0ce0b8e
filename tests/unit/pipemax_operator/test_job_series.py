"""Series of jobs: what a scrape shows is what was set, though it is rendered only once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pipemax_operator.job_series import JobSeries
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

KEY = ("batch", "reviews")
OTHER = ("batch", "others")
LABELS = ("namespace", "job", "state")


def make_series() -> JobSeries:
    return JobSeries({"job_attempts": ("Tries.", ()), "job_requests": ("By state.", ("state",))})


def scraped(series: JobSeries) -> dict[tuple[str | None, ...], float]:
    return {
        (sample.name, *map(sample.labels.get, LABELS[: len(sample.labels)])): sample.value
        for family in text_string_to_metric_families(series.exposition().decode())
        for sample in family.samples
    }


def test_values_replace_each_other_and_end() -> None:
    series = make_series()
    series.set("job_attempts", KEY, 1)
    series.set("job_attempts", KEY, 2)
    series.set("job_requests", KEY, 10, "total")
    series.set("job_requests", KEY, 3, "failed")
    series.set("job_requests", OTHER, 4, "failed")
    assert scraped(series) == {
        ("pipemax_job_attempts", *KEY): 2,
        ("pipemax_job_requests", *KEY, "total"): 10,
        ("pipemax_job_requests", *KEY, "failed"): 3,
        ("pipemax_job_requests", *OTHER, "failed"): 4,
    }
    series.set("job_requests", KEY, None, "failed")
    series.set("job_attempts", OTHER, None)
    assert ("pipemax_job_requests", *KEY, "failed") not in scraped(series)
    series.forget(KEY)
    series.forget(KEY)
    assert scraped(series) == {("pipemax_job_requests", *OTHER, "failed"): 4}


def test_what_does_not_change_is_not_rendered_again() -> None:
    series = make_series()
    series.set("job_attempts", KEY, 7)
    family = series._families["job_attempts"]
    before = family._lines[KEY]
    series.set("job_attempts", KEY, 7.0)
    assert family._lines[KEY] is before


def test_help_type_and_labels_are_escaped_as_the_format_asks() -> None:
    series = JobSeries({"job_odd": ("One\nof \\ two.", ("state",))})
    series.set("job_odd", KEY, 0.25, 'a "b"\\\n')
    text = series.exposition().decode()
    assert text.splitlines()[:2] == [
        r"# HELP pipemax_job_odd One\nof \\ two.",
        "# TYPE pipemax_job_odd gauge",
    ]
    assert scraped(series) == {("pipemax_job_odd", *KEY, 'a "b"\\\n'): 0.25}
    assert text.splitlines()[2].startswith('pipemax_job_odd{job="reviews",namespace="batch",state=')


@settings(max_examples=50, deadline=None)
@given(st.floats(allow_nan=False) | st.integers(-(10**12), 10**12))
def test_any_number_is_read_as_it_was_set(value: float) -> None:
    series = make_series()
    series.set("job_attempts", KEY, value)
    assert scraped(series) == {("pipemax_job_attempts", *KEY): value}
    registry = CollectorRegistry()
    registry.register(series)
    labels = {"namespace": KEY[0], "job": KEY[1]}
    assert registry.get_sample_value("pipemax_job_attempts", labels) == value
