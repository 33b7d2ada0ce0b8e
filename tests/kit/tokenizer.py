"""Tiny real tokenizer folders, made in milliseconds: a byte-level BPE (GPT-2, Llama 3, Qwen) and a
SentencePiece-like one with byte fallback (Llama 2, Mistral)."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

CORPUS = [
    "Sort the numbers 3, 1 and 2, please. The answer is 1, 2, 3.",
    "Hello world! How are you today? I am fine, thank you.",
    "stop stopping stopped STOP the end of the text user assistant system",
] * 4

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'developer' %}{{ raise_exception('no developer role') }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if thinking is defined and not thinking %}{{ 'no thoughts' }}{% endif %}{% endif %}"
)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS_TOKEN = "<|im_end|>"


def build_tokenizer_folder(
    folder: Path,
    kind: str = "byte_level",
    chat_template: str | None = CHAT_TEMPLATE,
    template_place: str = "tokenizer_config.json",
    add_bos: bool = False,
) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; ``kind`` is ``byte_level`` or
    ``metaspace``; the template goes to one of the three files where templates are found."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_level() if kind == "byte_level" else _metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    if add_bos:
        bos = SPECIAL_TOKENS[0]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS_TOKEN,
        "model_max_length": 8,  # a hint that must not cut prompts
    }
    if chat_template is not None and template_place == "tokenizer_config.json":
        config["chat_template"] = chat_template
    elif chat_template is not None and template_place == "chat_template.jinja":
        (folder / template_place).write_text(chat_template, encoding="utf-8")
    elif chat_template is not None:
        (folder / template_place).write_text(json.dumps({"chat_template": chat_template}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _metaspace() -> Tokenizer:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *byte_tokens], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # the trainer made the byte tokens special, which would hide them from every text
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] == "<unk>"]
    return Tokenizer.from_str(json.dumps(state))
