"""Bad input of every kind: a clear record or error, the right exit code, and nothing lost."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kit.batch_lines import line_of
from kit.jobs import JobFolder, answer_text, error_code, text_line, text_lines
from kit.runnable_model import write_model
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.engine import preemption
from pipemax_worker.engine.kv_forecast import KVForecast
from pipemax_worker.pipeline.executor import PipelineExecutor
from pipemax_worker.runner import run, session

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b'{"custom_id": "x", ', "invalid_json"),
    "no object": (b"[1, 2]", "invalid_type"),
    "wrong encoding": (b'{"custom_id": "caf\xe9"}', "invalid_encoding"),
    "a missing field": (line_of({"max_tokens": 3}, custom_id="f"), "missing_field"),
    "an unknown url": (line_of({"prompt": "x"}, "/v1/embeddings", custom_id="u"), "unknown_url"),
    "an unknown model": (text_line("m", model="gpt-4"), "model_not_found"),
    "a repeated custom_id": (text_line("good-0"), "duplicate_custom_id"),
    "a prompt beyond the context": (text_line("c", "word " * 500), "context_length_exceeded"),
    "KV that cannot fit": (text_line("k", max_tokens=200), "kv_cache_exceeded"),
    "an unknown parameter": (text_line("p", best_off=2), "unsupported_parameter"),
}


def test_bad_lines_get_records_and_the_others_their_answers(job: JobFolder) -> None:
    good = [text_line(f"good-{index}") for index in range(len(BAD_LINES))]
    bad = [line for line, _ in BAD_LINES.values()]
    job.write_input([line for pair in zip(good, bad, strict=True) for line in pair])
    job.write({"engine.blockTokens": 16, "engine.deviceKvCache": "64Ki"})
    assert job.run("--quiet") == 0
    records = sorted(job.records(), key=lambda record: record["pipemax"]["offset"])
    assert len(records) == 2 * len(BAD_LINES)
    for record in records[::2]:
        assert answer_text(record)
    for number, (record, (_, code)) in enumerate(
        zip(records[1::2], BAD_LINES.values(), strict=True), start=1
    ):
        assert error_code(record) == code
        assert record["response"]["status_code"] == 400
        assert record["error"]["message"].startswith(f"in.jsonl, line {2 * number}: ")
    copies = (job.output / "errors").glob("*.jsonl")
    assert sum(len(path.read_bytes().splitlines()) for path in copies) == len(BAD_LINES)


def test_an_empty_file_among_others(job: JobFolder) -> None:
    job.write_input([], "empty.jsonl")
    job.write_input([b"", b"  "], "blank.jsonl")
    job.write_input(text_lines(3), "full.jsonl")
    job.write()
    assert job.run("--quiet") == 0
    assert len(job.records()) == 3


def fails(job: JobFolder, capsys: pytest.CaptureFixture[str], exit_code: int) -> str:
    """Run a job that must fail before a record is written; the message."""
    assert job.run() == exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err.split("pipemax: ")[-1]
    return said.err


def test_nothing_but_empty_files(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_input([])
    job.write()
    assert "in.jsonl: no requests: the input is empty" in fails(job, capsys, 65).replace(
        "*.jsonl", "in.jsonl"
    )


def test_a_missing_file(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_input(text_lines(3))
    job.write({"input": {"uris": ["in.jsonl", "gone.jsonl"]}})
    assert "gone.jsonl: no such file" in fails(job, capsys, 66)
    job.write({"input": {"uris": ["in.jsonl"]}})
    assert job.run("--quiet") == 0


@pytest.mark.parametrize("place", ["in.jsonl/out", "/proc/out"])
def test_an_output_that_is_not_writable(
    job: JobFolder, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(3))
    job.write({"output.uri": place})
    message = fails(job, capsys, 74)
    assert "could not write" in message
    assert "choose another output" in message or "check the location" in message


def test_an_nvme_folder_that_is_not_writable(
    job: JobFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job.write_input(text_lines(3))
    job.write({"kvCache.nvme": {"hostPath": f"{path}/nvme", "size": "1Mi"}})
    assert "kvCache.nvme" in fails(job, capsys, 74)


@pytest.fixture
def own_model(tmp_path: Path) -> JobFolder:
    """A model of several shards that the test may break."""
    model = write_model(tmp_path / "model", max_shard_size="20KB")
    assert len(list(model.glob("*.safetensors"))) > 2
    job = JobFolder(tmp_path, model)
    job.write_input(text_lines(3))
    job.write({"parallelism.stagesPerNode": 2})
    return job


def test_a_missing_shard(own_model: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    shard = sorted(own_model.model_folder.glob("*.safetensors"))[1]
    away = shard.rename(own_model.folder / "away")
    assert f"{shard.name}: not found" in fails(own_model, capsys, 66)
    away.rename(shard)
    assert own_model.run("--quiet") == 0, "once the shard is there the same job runs"


def test_a_shard_that_is_cut_off(own_model: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the stage that reads it finds out."""
    shard = max(own_model.model_folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    message = fails(own_model, capsys, 66)
    assert f"{shard.name}: cannot be read as safetensors" in message
    shard.write_bytes(whole)
    assert own_model.run("--quiet") == 0, "once the shard is whole the same job runs"


def test_an_unknown_architecture(own_model: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_model.model_folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    message = fails(own_model, capsys, 66)
    assert "MambaForCausalLM" in message
    assert "supported: LlamaForCausalLM" in message


def test_a_tokenizer_that_is_missing(
    own_model: JobFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    away = (own_model.model_folder / "tokenizer.json").rename(own_model.folder / "away")
    assert "tokenizer.json: not found" in fails(own_model, capsys, 66)
    away.rename(own_model.model_folder / "tokenizer.json")
    assert own_model.run("--quiet") == 0


def test_an_input_that_changes_while_it_is_read(
    job: JobFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job.write_input(text_lines(30), "b.jsonl")
    job.write_input(text_lines(30), "a.jsonl")
    job.write({"engine.lookAhead": 4, "engine.maxNumRequests": 2})
    original = path.read_bytes()
    opened = run.open_session

    @contextlib.contextmanager
    def open_and_change(*arguments: Any, **options: Any) -> Iterator[session.Session]:
        with opened(*arguments, **options) as made:
            path.write_bytes(b"\n" + original)
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(run, "open_session", open_and_change)
        assert job.run() == 65
    assert "b.jsonl: the input changed while the job runs" in capsys.readouterr().err
    assert {record["pipemax"]["file"] for record in job.records()} == {"a.jsonl"}
    path.write_bytes(original)
    assert job.run("--quiet") == 0
    assert len(job.records()) == 60


def test_an_input_that_changes_in_the_middle_of_a_range(
    job: JobFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record of a changed line is written; with the file restored the job goes on."""
    lines = text_lines(40)
    lines = [line + b" " * 40_000 for line in lines]  # longer than what is read at a time
    path = job.write_input(lines)
    original = path.read_bytes()
    job.write({"engine.lookAhead": 4, "engine.maxNumRequests": 2})
    opened = run.open_session

    @contextlib.contextmanager
    def open_and_change(*arguments: Any, **options: Any) -> Iterator[session.Session]:
        with opened(*arguments, **options) as made:
            step, steps = made.engine.step, itertools.count()

            def step_and_change() -> Any:
                if next(steps) == 5:
                    path.write_bytes(original.replace(b"Hello", b"Byebye"))
                return step()

            monkeypatch.setattr(made.engine, "step", step_and_change)
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(run, "open_session", open_and_change)
        assert job.run("--quiet") == 65
    assert "in.jsonl: the input changed while the job runs" in capsys.readouterr().err
    assert 0 < len(job.records()) < 40
    early = {record["custom_id"]: answer_text(record) for record in job.records()}
    assert job.run("--quiet") == 78, "it is another job's input now"
    assert "input in.jsonl.content_hash: was" in capsys.readouterr().err
    path.write_bytes(original)
    assert job.run("--quiet") == 0
    texts = {name: answer_text(record) for name, record in job.by_id().items()}
    assert len(texts) == 40
    job.write({"output.uri": "undisturbed"})
    assert job.run("--quiet") == 0
    assert texts.items() >= early.items()
    assert _texts(job, "undisturbed") == texts


class CorruptNvme:
    """Stages whose NVMe flips bits, and a scheduler that uses it much.

    Far more requests are admitted than there is room for, and moving always seems cheaper than
    computing again. ``statistics`` are those of the last run's end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statistics = EngineStatistics()
        executor = functools.partial(PipelineExecutor, entry_point="kit.faulty_nvme:main")
        derive, opened = run.derive_session_settings, run.open_session

        def derive_greedy(*arguments: Any) -> Any:
            return msgspec.structs.replace(derive(*arguments), growth_reserve_ratio=0.0)

        @contextlib.contextmanager
        def open_and_look(*arguments: Any, **options: Any) -> Iterator[session.Session]:
            with opened(*arguments, **options) as made:
                yield made
                self.statistics = made.engine.statistics

        monkeypatch.setattr(session, "PipelineExecutor", executor)
        monkeypatch.setattr(run, "derive_session_settings", derive_greedy)
        monkeypatch.setattr(run, "open_session", open_and_look)
        monkeypatch.setattr(KVForecast, "peak_tokens", lambda *_: 0)
        monkeypatch.setattr(preemption, "recompute_seconds", lambda *_: float("inf"))


@pytest.mark.parametrize("num_stages", [1, 2])
def test_a_corrupted_nvme_slot_is_found_and_computed_again(
    job: JobFolder, num_stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.write_input(text_lines(24, max_tokens=60))
    job.write({"engine.blockTokens": 4, "output.uri": "good"})
    assert job.run("--quiet") == 0
    expected = {name: answer_text(record) for name, record in _records(job, "good").items()}

    faulty = CorruptNvme(monkeypatch)
    # 64 blocks on a stage, where one request takes up to 25 and all of them 500
    tiers = {"host": f"{256 * num_stages}Ki", "nvme": {"emptyDir": {}, "size": "8Mi"}}
    job.write(
        {
            "engine.blockTokens": 4,
            "engine.prefixSharing": False,
            "engine.deviceKvCache": "256Ki",
            "parallelism.stagesPerNode": num_stages,
            "kvCache": tiers,
        }
    )
    assert job.run("--quiet") == 0
    moved = {(copy.source, copy.target): copy.num_bytes for copy in faulty.statistics.copies}
    assert moved[Tier.NVME, Tier.HOST] > 0
    assert faulty.statistics.num_invalidated_blocks > 0
    assert faulty.statistics.num_recomputed_tokens > 0
    assert {name: answer_text(record) for name, record in job.by_id().items()} == expected


def _texts(job: JobFolder, output: str) -> dict[str, str]:
    shutil.rmtree(job.output)
    return {name: answer_text(record) for name, record in _records(job, output).items()}


def _records(job: JobFolder, output: str) -> dict[str, dict[str, Any]]:
    """Of a run with another output, which is moved to the job's own place and back."""
    shutil.move(job.folder / output, job.output)
    try:
        return job.by_id()
    finally:
        shutil.rmtree(job.output)
