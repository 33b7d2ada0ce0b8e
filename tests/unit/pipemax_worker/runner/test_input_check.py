"""Every line of an input, in portions, in several processes: the same report each time."""

from __future__ import annotations

import gzip
import os
from functools import partial

import pytest
from kit.batch_lines import line_of
from kit.jobs import JobFolder, text_line, text_lines
from pipemax_worker.dataset.inputs import discover_inputs
from pipemax_worker.errors import InputError
from pipemax_worker.runner.input_check import CheckSettings, InputReport, check_input
from pipemax_worker.runner.line_checker import MAX_FAULTS_SHOWN, LineChecker
from pipemax_worker.runner.preparation import prepare_job
from pipemax_worker.runner.validation import _make_checker

SMALL = CheckSettings(num_processes=1, portion_bytes=300, max_memory_bytes=5000)


@pytest.fixture
def job(job: JobFolder) -> JobFolder:
    """Three files; four lines repeat an id, of which one is faulty by itself; two are no JSON."""
    job.write_input([*text_lines(10), b"", b"no json"], "a.jsonl")
    again = line_of({"prompt": 3}, custom_id="r2")
    job.write_input([text_line("r1"), *text_lines(10, "s"), again], "b.jsonl")
    packed = [text_line("s3"), *text_lines(10, "t"), b"{", text_line("t0")]
    (job.folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n".join(packed)))
    return job


def check(job: JobFolder, settings: CheckSettings = SMALL) -> InputReport:
    prepared = prepare_job(job.write({"input.uri": "*.jsonl*"}), {})
    return check_input(prepared.inputs, partial(_make_checker, prepared), settings)


def test_what_is_found(job: JobFolder) -> None:
    report = check(job)
    assert report.num_lines == 36
    assert report.reasons == {"duplicate_custom_id": 3, "invalid_json": 2, "invalid_type": 1}
    assert [fault.split(": ")[:2] for fault in report.faults] == [
        ["a.jsonl:12", "invalid_json"],
        ["b.jsonl:1", "duplicate_custom_id"],
        ["b.jsonl:12", "invalid_type"],
        ["c.jsonl.gz:1", "duplicate_custom_id"],
        ["c.jsonl.gz:12", "invalid_json"],
        ["c.jsonl.gz:13", "duplicate_custom_id"],
    ]
    assert report.faults[1].endswith("custom_id 'r1' is also that of a.jsonl:2")
    assert report.faults[3].endswith("custom_id 's3' is also that of b.jsonl:5")
    assert report.faults[5].endswith("custom_id 't0' is also that of c.jsonl.gz:2")


@pytest.mark.parametrize(
    "settings",
    [
        CheckSettings(num_processes=1),
        CheckSettings(1, portion_bytes=64, max_memory_bytes=300),
        CheckSettings(2, portion_bytes=300, max_memory_bytes=5000),
    ],
)
def test_however_it_is_cut(job: JobFolder, settings: CheckSettings) -> None:
    assert check(job, settings) == check(job)


def test_only_the_first_faults_of_all_portions_are_kept(job: JobFolder) -> None:
    number = 3 * MAX_FAULTS_SHOWN
    job.write_input([b"no json"] * number, "a.jsonl")
    report = check(job)
    assert report.reasons["invalid_json"] == number + 1
    lines = [f"a.jsonl:{line + 1}" for line in range(MAX_FAULTS_SHOWN)]
    assert [fault.split(": ")[0] for fault in report.faults] == lines


def test_nothing_is_left_behind(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job.folder / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    check(job)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_input_that_changes_ends_it(job: JobFolder, num_processes: int) -> None:
    """Also out of another process, which ends with it."""
    path = job.folder / "b.jsonl"
    prepared = prepare_job(job.write({"input.uri": "*.jsonl"}), {})
    path.write_bytes(b"changed")
    make = partial(_make_checker, prepared)
    with pytest.raises(InputError, match=r"b\.jsonl: the input changed"):
        check_input(prepared.inputs, make, CheckSettings(num_processes, portion_bytes=300))


def test_a_small_input_starts_no_process(job: JobFolder) -> None:
    made = []
    (file,) = discover_inputs([job.folder / "a.jsonl"])
    prepared = prepare_job(job.write({"input.uri": "a.jsonl"}), {})

    def make() -> LineChecker:
        made.append(os.getpid())
        return _make_checker(prepared)

    check_input([file], make)
    assert made == [os.getpid()]
