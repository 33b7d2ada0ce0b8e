"""The model's tokenizer and chat template, without torch.

``AutoTokenizer`` loads torch (550-700 MB); ``PreTrainedTokenizerFast`` with a folder does not.
Text is encoded and decoded by the ``tokenizers`` library beneath it, which does no clean-up of
spaces: the text is exactly what the model wrote.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipemax_worker.errors import ModelNotFoundError, RequestError

_REQUIRED_FILES = ("tokenizer.json", "tokenizer_config.json")
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# What a template's variables may not be called: they would steer the rendering instead.
_RESERVED_KWARGS = frozenset(
    inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters
) | {"messages", "conversations", "return_assistant_tokens_mask"}


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a model folder's tokenizer.

    Raises ModelNotFoundError where a file is missing (naming it) or cannot be read.
    """
    for name in _REQUIRED_FILES:
        if not (folder / name).is_file():
            raise ModelNotFoundError(
                f"{folder / name}: not found; a model folder holds {' and '.join(_REQUIRED_FILES)}"
            )
    try:
        loaded = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        if loaded.chat_template is None:
            loaded.chat_template = _legacy_chat_template(folder)
    except Exception as error:  # a broken file fails in many ways inside the library
        raise ModelNotFoundError(f"{folder}: the tokenizer cannot be read: {error}") from error
    return Tokenizer(loaded)


def _legacy_chat_template(folder: Path) -> Any:
    """Processors once kept the template in a JSON file, which a tokenizer does not look for."""
    path = folder / "chat_template.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["chat_template"]


class Tokenizer:
    """Text to token ids and back, for one model. Use :func:`load_tokenizer`."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self._backend = loaded.backend_tokenizer
        # tokenizer.json may hold the settings of its training; a prompt is never cut or padded
        self._backend.no_truncation()
        self._backend.no_padding()
        added = self._backend.get_added_tokens_decoder()
        self._special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self._anchor_ids = self.encode("a", add_special_tokens=False)[-1:]
        self._token_bytes: dict[tuple[int, bool], bytes] = {}

    @property
    def eos_token_id(self) -> int | None:
        """The end-of-sequence id of ``tokenizer_config.json``."""
        eos_token_id: int | None = self._loaded.eos_token_id
        return eos_token_id

    @property
    def has_chat_template(self) -> bool:
        return bool(self._loaded.chat_template)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that this model's texts begin with."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def apply_chat_template(
        self, messages: list[dict[str, str]], chat_template_kwargs: dict[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant's next answer begins.

        Raises RequestError: ``no_chat_template``, ``chat_template_failed`` (the template refused
        the messages or its variables), ``unsupported_parameter`` (a variable's name is reserved).
        """
        if not self.has_chat_template:
            raise RequestError(
                "no_chat_template",
                "the model has no chat template; use /v1/completions, or add chat_template.jinja "
                "to the model folder",
                "url",
            )
        for name in chat_template_kwargs or ():
            if name in _RESERVED_KWARGS:
                param = f"body.chat_template_kwargs.{name}"
                raise RequestError("unsupported_parameter", f"{param} is not supported", param)
        return self.encode(
            self._render(messages, chat_template_kwargs or {}), add_special_tokens=False
        )

    def _render(self, messages: list[dict[str, str]], variables: dict[str, Any]) -> str:
        try:
            text: str = self._loaded.apply_chat_template(
                messages, tools=None, add_generation_prompt=True, tokenize=False, **variables
            )
        except Exception as error:  # a template is a program of its own
            message = f"the model's chat template failed: {type(error).__name__}: {error}"
            raise RequestError("chat_template_failed", message, "body.messages") from error
        return text

    def decode(self, token_ids: list[int]) -> str:
        """The text of output tokens, without special tokens."""
        text: str = self._backend.decode(token_ids, skip_special_tokens=True)
        return text

    def is_visible(self, token_id: int) -> bool:
        """False for tokens that are never part of the text: special and unknown ones."""
        return token_id not in self._special_ids and self._backend.id_to_token(token_id) is not None

    def token_bytes(self, token_id: int, is_first: bool = False) -> bytes:
        """The bytes that one token stands for inside a text; may be a part of a character.

        ``is_first``: at the start of a text, where some decoders strip the token's space.
        """
        known = self._token_bytes.get((token_id, is_first))
        if known is None:
            known = self._find_token_bytes(token_id, is_first)
            self._token_bytes[token_id, is_first] = known
        return known

    def _find_token_bytes(self, token_id: int, is_first: bool) -> bytes:
        if token_id in self._special_ids:
            return str(self._backend.id_to_token(token_id)).encode()
        anchor_ids = [] if is_first else self._anchor_ids
        before: str = self._backend.decode(anchor_ids, skip_special_tokens=False)
        both: str = self._backend.decode([*anchor_ids, token_id], skip_special_tokens=False)
        text = both[len(before) :]
        if _REPLACEMENT in text:
            return _piece_bytes(self._backend.id_to_token(token_id) or text)
        return text.encode()


def _piece_bytes(piece: str) -> bytes:
    """The bytes of a vocabulary entry that is no whole text by itself."""
    if match := _BYTE_FALLBACK.fullmatch(piece):
        return bytes([int(match[1], 16)])
    if all(character in _BYTE_OF_CHARACTER for character in piece):
        return bytes(_BYTE_OF_CHARACTER[character] for character in piece)
    return piece.encode()


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level BPE (GPT-2): printable Latin-1 characters
    for themselves, the other bytes in order from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_level_alphabet()
