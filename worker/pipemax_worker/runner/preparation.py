"""What a job needs before its pipeline starts: places, model, tokenizer, input, settings.

Everything here can fail because of the user's files, and fails before a process is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.dataset.fingerprint import Fingerprint, build_fingerprint
from pipemax_worker.dataset.inputs import InputFile, discover_inputs
from pipemax_worker.dataset.model_identity import describe_model
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.job.load import load_job
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.prompts.settings import PromptSettings, SamplingDefaults
from pipemax_worker.prompts.tokenizer import load_tokenizer
from pipemax_worker.runner.model_files import check_weight_files
from pipemax_worker.runner.model_provision import FetchModel, fetch_silently
from pipemax_worker.runner.places import Places, resolve_inputs, resolve_places


@dataclass(frozen=True)
class PreparedJob:
    """A job whose places are found and whose model can be run."""

    job: InferenceJob
    places: Places
    model_config: ModelConfig
    inputs: tuple[InputFile, ...]


def prepare_job(
    job_file: Path, mounts: Mapping[str, str], fetch_model: FetchModel = fetch_silently
) -> PreparedJob:
    """``fetch_model`` is called for a model from afar, once everything else is found.

    Raises JobFileError, ModelNotFoundError, UnsupportedModelError, InputNotFoundError, InputError,
    and what ``fetch_model`` raises: whatever is wrong, before anything is started.
    """
    job = load_job(job_file)
    inputs = discover_inputs(resolve_inputs(job, job_file, mounts))
    places = resolve_places(job, job_file, mounts, fetch_model)
    model_config = load_model_config(places.model_folder)
    check_weight_files(places.model_folder)
    return PreparedJob(
        job=job,
        places=places,
        model_config=model_config,
        inputs=inputs,
    )


def build_processor(prepared: PreparedJob) -> PromptProcessor:
    """Raises ModelNotFoundError where the tokenizer is missing or broken."""
    job = prepared.job
    settings = PromptSettings(
        model_name=job.spec.model.names[0],
        aliases=job.spec.model.names[1:],
        max_model_tokens=prepared.model_config.max_position_embeddings,
        defaults=_sampling_defaults(job),
    )
    tokenizer = load_tokenizer(prepared.places.model_folder)
    tokenizer_file = prepared.places.model_folder / "tokenizer.json"
    return PromptProcessor(tokenizer, prepared.model_config, settings, tokenizer_file)


def _sampling_defaults(job: InferenceJob) -> SamplingDefaults:
    sampling = job.spec.sampling
    return SamplingDefaults(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        stop=tuple(sampling.stop),
        ignore_eos=sampling.ignore_eos,
        seed=sampling.seed,
    )


def fingerprint_of(prepared: PreparedJob) -> Fingerprint:
    """What the text of the records depends on: a changed job must not go on in an old ledger.

    Stages, tiers, policy and deadline are left out: the text does not depend on them.
    """
    spec = prepared.job.spec
    parameters = {
        "sampling": spec.sampling.model_dump(mode="json", by_alias=True),
        "modelNames": list(spec.model.names),
        "dtype": spec.model.dtype,
        "kvDtype": spec.engine.kv_dtype,
    }
    return build_fingerprint(
        model=describe_model(prepared.places.model_folder), parameters=parameters
    )
