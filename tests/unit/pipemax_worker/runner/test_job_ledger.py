"""When an output is bound to a job."""

import pytest
from kit.jobs import JobFolder, text_line
from pipemax_worker.dataset.places import open_store
from pipemax_worker.errors import LedgerMismatchError
from pipemax_worker.runner.job_ledger import find_ledger, open_ledger
from pipemax_worker.runner.preparation import prepare_job


def test_looking_for_a_ledger_writes_none(job: JobFolder) -> None:
    job.write_input([text_line("a")])
    prepared = prepare_job(job.write(), {})
    store = open_store(prepared.places.output)
    assert find_ledger(prepared, store) is None
    assert not job.output.exists()
    created = open_ledger(prepared, store)
    found = find_ledger(prepared, store)
    assert found is not None
    assert found.job == created.job


def test_another_jobs_ledger_is_refused_naming_what_changed(job: JobFolder) -> None:
    job.write_input([text_line("a")])
    prepared = prepare_job(job.write(), {})
    store = open_store(prepared.places.output)
    open_ledger(prepared, store)
    changed = prepare_job(job.write({"sampling": {"temperature": 0.5, "maxTokens": 8}}), {})
    with pytest.raises(LedgerMismatchError, match=r"sampling\.temperature: was 0.*, is 0\.5"):
        find_ledger(changed, store)


def test_results_without_a_ledger_are_nobodys(job: JobFolder) -> None:
    job.write_input([text_line("a")])
    prepared = prepare_job(job.write(), {})
    (job.output / "results").mkdir(parents=True)
    (job.output / "results" / "00000000-000000.jsonl").write_text("{}\n")
    with pytest.raises(LedgerMismatchError, match="nobody knows which job"):
        find_ledger(prepared, open_store(prepared.places.output))
