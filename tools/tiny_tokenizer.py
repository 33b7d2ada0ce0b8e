"""The tiny model's tokenizer, in the standard format (``tokenizers`` JSON, chat template).

Like Llama 2's: a space belongs to the word behind it, the first word of a text gets one too, and
decoding takes it off again; what is no word of ours is spelled in characters, and what is no ASCII
in bytes, so that any text survives encoding and decoding. A number below 256 is one token.
"""

from __future__ import annotations

import json
from pathlib import Path

from tiny_task import NUM_NUMBERS, TASKS
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, SYSTEM, USER, ASSISTANT, END)
SPACE = "▁"
WORDS = (*(f"{task}:" for task in TASKS), "table:", ";", "->")
ASCII = tuple(chr(code) for code in range(33, 127))

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('roles are system, user and assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_vocabulary() -> dict[str, int]:
    """Special tokens, words, numbers, then what spells everything else."""
    tokens = [*SPECIAL_TOKENS]
    tokens += [SPACE + word for word in WORDS]
    tokens += [f"{SPACE}{number}" for number in range(NUM_NUMBERS)]
    tokens += [SPACE, *ASCII]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    return {token: index for index, token in enumerate(tokens)}


VOCABULARY = build_vocabulary()
PAD_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID, END_ID = range(len(SPECIAL_TOKENS))
FIRST_NUMBER_ID = VOCABULARY[f"{SPACE}0"]


def word_id(word: str) -> int:
    """The token of one of ``WORDS`` with the space before it."""
    return VOCABULARY[SPACE + word]


def build_tokenizer() -> Tokenizer:
    """A word of the vocabulary is taken whole (``ignore_merges``); there are no merges."""
    model = BPE(vocab=VOCABULARY, merges=[], byte_fallback=True, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def save_tokenizer(folder: Path, max_tokens: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "pad_token": PAD,
        "eos_token": END,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
