"""What a job needs, checked before anything starts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kit.jobs import CONTEXT_TOKENS, JobFolder, text_line
from pipemax_worker.contract.request import RecordKey
from pipemax_worker.errors import (
    InputError,
    InputNotFoundError,
    ModelNotFoundError,
    PipemaxError,
    RequestError,
    UnsupportedModelError,
)
from pipemax_worker.runner.preparation import build_processor, fingerprint_of, prepare_job

KEY = RecordKey("in.jsonl", 0)


@pytest.fixture
def own_model(job: JobFolder) -> JobFolder:
    """A job with a model folder that the test may break."""
    folder = job.folder / "model"
    shutil.copytree(job.model_folder, folder)
    job.write_input([text_line("a")])
    return JobFolder(job.folder, folder)


def test_a_job_that_has_everything(job: JobFolder) -> None:
    job.write_input([text_line("a")], "b.jsonl")
    job.write_input([text_line("b")], "a.jsonl")
    prepared = prepare_job(job.write(), {})
    assert prepared.job.metadata.name == "reviews"
    assert prepared.model_config.num_hidden_layers == 4
    assert [file.name for file in prepared.inputs] == ["a.jsonl", "b.jsonl"]


def remove(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (remove("config.json"), ModelNotFoundError, r"config\.json: not found"),
        (overwrite("config.json", "{"), ModelNotFoundError, "cannot be read as JSON"),
        (
            overwrite("config.json", json.dumps({"architectures": ["GPT2LMHeadModel"]})),
            UnsupportedModelError,
            "GPT2LMHeadModel.* is not supported; supported: LlamaForCausalLM",
        ),
        (remove("model.safetensors"), ModelNotFoundError, r"model\.safetensors: not found"),
        (remove("tokenizer.json"), ModelNotFoundError, r"tokenizer\.json: not found"),
        (overwrite("tokenizer.json", "{"), ModelNotFoundError, "tokenizer cannot be read"),
    ],
)
def test_a_model_folder_with_a_fault(
    own_model: JobFolder, damage: Any, error: type[PipemaxError], named: str
) -> None:
    damage(own_model.model_folder)
    with pytest.raises(error, match=named):
        build_processor(prepare_job(own_model.write(), {}))


def test_no_input(job: JobFolder) -> None:
    with pytest.raises(InputNotFoundError, match="no file matches"):
        prepare_job(job.write(), {})
    with pytest.raises(InputNotFoundError, match=r"gone\.jsonl: no such file"):
        prepare_job(job.write({"input.uri": "gone.jsonl"}), {})


def test_an_input_without_a_byte(job: JobFolder) -> None:
    job.write_input([])
    with pytest.raises(InputError, match="the input is empty"):
        prepare_job(job.write(), {})


def test_every_sampling_default_reaches_the_requests(job: JobFolder) -> None:
    sampling = {
        "temperature": 0.5,
        "topP": 0.25,
        "topK": 7,
        "minP": 0.125,
        "seed": 3,
        "repetitionPenalty": 1.5,
        "presencePenalty": 0.75,
        "frequencyPenalty": -0.75,
        "maxTokens": 9,
        "minTokens": 2,
        "stop": ["END"],
        "ignoreEos": True,
    }
    job.write_input([text_line("a")])
    processor = build_processor(prepare_job(job.write({"sampling": sampling}), {}))
    line = processor.prepare(text_line("a"), KEY, 1)
    params = line.requests[0].sampling
    given = (params.temperature, params.top_p, params.top_k, params.min_p)
    assert given == (0.5, 0.25, 7, 0.125)
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    assert penalties == (1.5, 0.75, -0.75)
    assert (params.max_tokens, params.min_tokens) == (9, 2)
    assert params.stop_token_ids == ()
    assert line.stop == ("END",)
    other_seed = sampling | {"seed": 4}
    processor = build_processor(prepare_job(job.write({"sampling": other_seed}), {}))
    assert processor.prepare(text_line("a"), KEY, 1).requests[0].seed != line.requests[0].seed


def test_names_and_context(job: JobFolder) -> None:
    job.write_input([text_line("a")])
    changes = {"model.name": "small", "model.aliases": ["gpt-4o-mini"]}
    processor = build_processor(prepare_job(job.write(changes), {}))
    assert processor.prepare(text_line("a"), KEY, 1).model == "small"
    aliased = processor.prepare(text_line("a", model="gpt-4o-mini"), KEY, 1)
    assert aliased.model == "gpt-4o-mini"
    with pytest.raises(RequestError, match="it goes by 'small', 'gpt-4o-mini'"):
        processor.prepare(text_line("a", model="tiny"), KEY, 1)
    with pytest.raises(RequestError, match=f"the context of {CONTEXT_TOKENS}"):
        processor.prepare(text_line("a", max_tokens=CONTEXT_TOKENS), KEY, 1)


def digest_of(job: JobFolder, changes: dict[str, Any] | None = None) -> str:
    return fingerprint_of(prepare_job(job.write(changes), {})).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"parallelism.stagesPerNode": 2},
        {"engine.microBatches": 3},
        {"engine.maxNumRequests": 7},
        {"kvCache.host": "1Mi"},
        {"deadline": "1h"},
        {"errorPolicy": {"maxFailedCount": 1}},
        {"output.uri": "elsewhere"},
    ],
)
def test_what_the_text_does_not_depend_on(job: JobFolder, changes: dict[str, Any]) -> None:
    job.write_input([text_line("a")])
    assert digest_of(job, changes) == digest_of(job)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": {"temperature": 0.5}},
        {"sampling": {"maxTokens": 9}},
        {"model.aliases": ["other"]},
        {"model.dtype": "bfloat16"},
        {"engine.kvDtype": "bfloat16"},
    ],
)
def test_what_it_does_depend_on(job: JobFolder, changes: dict[str, Any]) -> None:
    job.write_input([text_line("a")])
    assert digest_of(job, changes) != digest_of(job)


def test_the_model_counts_by_content_not_by_place(own_model: JobFolder) -> None:
    before = digest_of(own_model)
    moved = own_model.model_folder.rename(own_model.folder / "moved")
    assert digest_of(JobFolder(own_model.folder, moved)) == before
    (moved / "model.safetensors").write_bytes(b"other weights")
    assert digest_of(JobFolder(own_model.folder, Path(moved))) != before
