"""The process that compiles schemas (``prompts.grammars``): a script, imported by nobody.

    grammar_process.py FD PARSER_LIMITS TOKENIZER_FILE END_TOKEN_ID...

Reads schemas from the pipe and answers each; ends when the pipe does. It compiles exactly as the
last stage will, with the model's tokenizer, and generates a few tokens, but with less stack and
memory than a stage has: what passes here does not bring a stage down.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

STACK_BYTES = 16 << 20
MEMORY_BYTES = 4 << 30
ORPHAN_SECONDS = 120
"""Nobody waits that long for a schema: the driver is gone, and this process follows."""

NUM_REHEARSED_TOKENS = 8

# At most one blank, or one line break and its indentation, wherever JSON allows white space: models
# write as they are used to, and cannot fill an answer with nothing.
WHITESPACE_PATTERN = r"[ ]|\n[ \t]{0,40}"
OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": True,
    "whitespace_pattern": WHITESPACE_PATTERN,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}


def compile_schema(schema: str, tokenizer: LLTokenizer, limits: LLParserLimits) -> dict[str, str]:
    """``{"grammar": ...}`` or ``{"error": ...}``, as JSON fields of a ``GrammarAnswer``."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS)
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        rehearse(matcher)
        error = matcher.get_error() if matcher.is_error() else ""
    except BaseException as caught:  # a panic of the library is not an Exception
        error = describe(caught)
    return {"error": error} if error else {"grammar": grammar}


def rehearse(matcher: LLMatcher) -> None:
    """Take the first allowed token again and again: some limits show only after the first ones."""
    for _ in range(NUM_REHEARSED_TOKENS):
        if matcher.is_stopped():  # also in its error state
            return
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        if not matcher.is_error():
            matcher.consume_token((bits & -bits).bit_length() - 1)


def describe(caught: BaseException) -> str:
    return str(caught) or type(caught).__name__


def serve(
    pipe: Connection, limits: LLParserLimits, tokenizer_file: Path, end_token_ids: list[int]
) -> None:
    """Say that all is ready, or why not; then answer until the other side is gone."""
    try:
        text = tokenizer_file.read_text(encoding="utf-8")
        tokenizer = LLTokenizer(text, eos_token=end_token_ids)
    except BaseException as caught:
        answer(pipe, {"error": describe(caught)})
        return
    answer(pipe, {})
    while True:
        try:
            schema = pipe.recv_bytes().decode("utf-8", "surrogatepass")
        except EOFError:
            return
        signal.alarm(ORPHAN_SECONDS)  # its default action ends the process
        answer(pipe, compile_schema(schema, tokenizer, limits))
        signal.alarm(0)


def answer(pipe: Connection, fields: dict[str, str]) -> None:
    pipe.send_bytes(json.dumps(fields).encode())


def main() -> None:
    descriptor, limits, tokenizer_file, *end_token_ids = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    threading.stack_size(STACK_BYTES)
    arguments = (
        Connection(int(descriptor)),
        LLParserLimits(**json.loads(limits)),
        Path(tokenizer_file),
        [int(one) for one in end_token_ids],
    )
    thread = threading.Thread(target=serve, args=arguments)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
