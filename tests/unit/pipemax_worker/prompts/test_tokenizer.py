"""Loading, special tokens, chat templates, the bytes of a token; and all of it without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.tokenizer import CHAT_TEMPLATE, build_tokenizer_folder
from pipemax_worker.errors import ModelNotFoundError, RequestError
from pipemax_worker.prompts.tokenizer import Tokenizer, load_tokenizer
from transformers import PreTrainedTokenizerFast

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (build_tokenizer_folder(tmp_path) / name).unlink()
    with pytest.raises(ModelNotFoundError, match=f"{name}: not found"):
        load_tokenizer(tmp_path)


def test_a_broken_file_is_an_error_of_the_model(tmp_path: Path) -> None:
    (build_tokenizer_folder(tmp_path) / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "place", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"]
)
def test_the_chat_template_is_found_in_each_of_its_places(tmp_path: Path, place: str) -> None:
    tokenizer = load_tokenizer(build_tokenizer_folder(tmp_path, template_place=place))
    expected = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(MESSAGES)
    assert ids == tokenizer.encode(expected)
    assert tokenizer.decode(ids) == "user\nHello\nassistant\n"


def test_chat_ids_equal_those_of_transformers(tmp_path: Path) -> None:
    build_tokenizer_folder(tmp_path, add_bos=True)
    oracle = PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    expected = oracle.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    assert load_tokenizer(tmp_path).apply_chat_template(MESSAGES) == expected["input_ids"]


def test_a_model_without_a_chat_template_refuses_chats(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(build_tokenizer_folder(tmp_path, chat_template=None))
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError) as caught:
        tokenizer.apply_chat_template(MESSAGES)
    assert caught.value.code == "no_chat_template"


def test_template_variables_reach_the_template(byte_level: Tokenizer) -> None:
    ids = byte_level.apply_chat_template(MESSAGES, {"thinking": False})
    assert byte_level.decode(ids).endswith("no thoughts")


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages", "tools", "return_dict"])
def test_reserved_template_variables_are_refused(byte_level: Tokenizer, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        byte_level.apply_chat_template(MESSAGES, {name: 1})
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == f"body.chat_template_kwargs.{name}"


@pytest.mark.parametrize(
    "template",
    [CHAT_TEMPLATE, "{{ messages[0].content + 1 }}", "{{ 1 // 0 }}", "{% if %}", "{{ nothing() }}"],
)
def test_a_failing_template_is_an_error_of_the_request(tmp_path: Path, template: str) -> None:
    tokenizer = load_tokenizer(build_tokenizer_folder(tmp_path, chat_template=template))
    with pytest.raises(RequestError, match="template failed") as caught:
        tokenizer.apply_chat_template([{"role": "developer", "content": "x"}])
    assert caught.value.code == "chat_template_failed"


def test_completions_begin_as_the_tokenizer_says(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(build_tokenizer_folder(tmp_path, add_bos=True))
    with_bos = tokenizer.encode("Hello")
    assert with_bos == [0, *tokenizer.encode("Hello", add_special_tokens=False)]


def test_prompts_are_neither_cut_nor_padded(tmp_path: Path) -> None:
    path = build_tokenizer_folder(tmp_path) / "tokenizer.json"
    state = json.loads(path.read_text())
    state["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(state))
    tokenizer = load_tokenizer(tmp_path)
    text = "one two three four five six seven eight nine ten"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_the_bytes_of_tokens_join_to_the_text(
    byte_level: Tokenizer, metaspace: Tokenizer, text: str
) -> None:
    for tokenizer, expected in ((byte_level, text), (metaspace, " " + text if text else "")):
        if tokenizer is metaspace:
            expected = expected.replace("▁", " ")
        ids = tokenizer.encode(text)
        assert b"".join(map(tokenizer.token_bytes, ids)) == expected.encode()


def test_special_and_unknown_tokens_are_not_visible(byte_level: Tokenizer) -> None:
    assert byte_level.eos_token_id == 2
    assert not byte_level.is_visible(2)
    assert not byte_level.is_visible(100_000)
    assert byte_level.is_visible(byte_level.encode("a")[0])
    assert byte_level.token_bytes(2) == b"<|im_end|>"


WITHOUT_TORCH = """
import importlib.machinery
import sys
class Refuse:  # torch is installed, as far as anybody looks, and cannot be imported
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError(f"{spec.name} is refused here")
    def exec_module(self, module):
        raise ImportError("refused")
sys.meta_path.insert(0, Refuse())
import json, pathlib, pkgutil, importlib
import pipemax_worker.prompts as package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"pipemax_worker.prompts.{module.name}")
from pipemax_worker.prompts.tokenizer import load_tokenizer
from pipemax_worker.prompts.detokenizer import StopStringChecker
tokenizer = load_tokenizer(pathlib.Path(sys.argv[1]))
ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}])
checker = StopStringChecker(tokenizer, ["lo"])
assert any(checker.append(token_id) for token_id in ids)
assert "torch" not in sys.modules
print(json.dumps(ids))
"""


def test_nothing_here_needs_torch(tmp_path: Path) -> None:
    folder = build_tokenizer_folder(tmp_path)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder)]
    worker = Path(__file__).parents[4] / "worker"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(worker)}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == load_tokenizer(folder).apply_chat_template(MESSAGES)
