"""JSON schemas compiled to grammars, in a process of their own.

The library's compiler is native code: some schemas would keep it busy for hours, exhaust memory or
its stack. So it runs in a child process, which is killed when it takes too long and replaced when
it dies; whatever a schema does, it is that request's error. Each distinct schema is compiled once.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import weakref
from collections import OrderedDict
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import msgspec

from pipemax_worker.contract.grammar import PARSER_LIMITS, Grammar
from pipemax_worker.errors import RequestError

COMPILE_SECONDS = 5.0
"""For one schema: its grammar, and the first mask. Usual schemas take about a millisecond."""

START_SECONDS = 120.0
"""For the child: loading the library and the tokenizer."""

MAX_CACHED_SCHEMAS = 128
MAX_MESSAGE_CHARACTERS = 500

_PARAM = "body.response_format"
_CHILD = Path(__file__).with_name("grammar_process.py")


class GrammarCompiler:
    """Compiles schemas for one model. The child starts with the first schema, and ends with
    :meth:`close`, with this object or with this process, whichever comes first.

    end_token_ids   the model's end-of-sequence ids; without any, no answer could end.
    """

    def __init__(
        self,
        tokenizer_file: Path,
        end_token_ids: tuple[int, ...],
        compile_seconds: float = COMPILE_SECONDS,
    ) -> None:
        self._tokenizer_file = tokenizer_file
        self._end_token_ids = end_token_ids
        self._compile_seconds = compile_seconds
        self._child: _Child | None = None
        self._known: OrderedDict[str, Grammar | RequestError] = OrderedDict()

    def compile(self, schema: str) -> Grammar:
        """The grammar of a JSON schema's text.

        Raises RequestError: ``invalid_response_format`` with what the library said, or why it said
        nothing; ``unsupported_parameter`` where this model cannot be held to any grammar.
        """
        known = self._known.pop(schema, None) or self._compile(schema)
        self._known[schema] = known
        if len(self._known) > MAX_CACHED_SCHEMAS:
            self._known.popitem(last=False)
        if isinstance(known, RequestError):
            raise RequestError(known.code, known.message, known.param)
        return known

    def close(self) -> None:
        """End the child process; the next schema starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _compile(self, schema: str) -> Grammar | RequestError:
        if not self._end_token_ids:
            message = f"{_PARAM}: the model names no end-of-sequence token, so no answer could end"
            return RequestError("unsupported_parameter", message, _PARAM)
        try:
            answer = self._ask_twice(schema)
        except _NotStarted as error:
            message = f"{_PARAM}: this model's tokenizer cannot be used with a schema: {error}"
            return RequestError("unsupported_parameter", _shortened(message), _PARAM)
        except TimeoutError:
            return _invalid(
                f"the schema did not compile within {self._compile_seconds:g} s; simplify it"
            )
        except (EOFError, OSError):
            return _invalid("the schema brought its compiler down; simplify it")
        if answer.grammar is None:
            return _invalid(f"the schema cannot be compiled: {answer.error}")
        return Grammar(answer.grammar, self._end_token_ids)

    def _ask_twice(self, schema: str) -> GrammarAnswer:
        """A child that is gone may have been so before it saw the schema."""
        try:
            return self._ask(schema)
        except TimeoutError:
            raise
        except (EOFError, OSError):
            return self._ask(schema)

    def _ask(self, schema: str) -> GrammarAnswer:
        if self._child is None:
            self._child = _Child(self._tokenizer_file, self._end_token_ids)
        try:
            return self._child.ask(schema, self._compile_seconds)
        except (EOFError, OSError):  # TimeoutError is an OSError
            self.close()
            raise


class GrammarAnswer(msgspec.Struct, frozen=True):
    """What the child says; also when it is ready (without a grammar and without an error)."""

    grammar: str | None = None
    error: str | None = None


class _NotStarted(Exception):
    """The child cannot work at all, whatever the schema."""


class _Child:
    """The process that ``grammar_process.py`` is, and the pipe to it."""

    def __init__(self, tokenizer_file: Path, end_token_ids: tuple[int, ...]) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            # -P: a script's own folder must not come first among the places of modules.
            command = [sys.executable, "-P", str(_CHILD), str(theirs.fileno())]
            process = subprocess.Popen(
                [
                    *command,
                    json.dumps(PARSER_LIMITS),
                    str(tokenizer_file),
                    *map(str, end_token_ids),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is the driver's to handle
            )
        self._end = weakref.finalize(self, _end_process, self._pipe, process)
        self._wait_until_ready()

    def ask(self, schema: str, timeout_seconds: float) -> GrammarAnswer:
        """Raises TimeoutError, EOFError, OSError; the child is of no more use then."""
        self._pipe.send_bytes(schema.encode("utf-8", "surrogatepass"))
        return self._receive(timeout_seconds)

    def close(self) -> None:
        self._end()

    def _wait_until_ready(self) -> None:
        try:
            answer = self._receive(START_SECONDS)
        except (EOFError, OSError) as error:
            answer = GrammarAnswer(error=f"its process did not start: {type(error).__name__}")
        if answer.error is not None:
            self.close()
            raise _NotStarted(answer.error)

    def _receive(self, timeout_seconds: float) -> GrammarAnswer:
        if not self._pipe.poll(timeout_seconds):
            raise TimeoutError
        return msgspec.json.decode(self._pipe.recv_bytes(), type=GrammarAnswer)


def _end_process(pipe: Connection[bytes, bytes], process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        pipe.close()
    process.kill()
    process.wait()


def _invalid(reason: str) -> RequestError:
    return RequestError("invalid_response_format", _shortened(f"{_PARAM}: {reason}"), _PARAM)


def _shortened(message: str) -> str:
    """The library quotes what it did not like, however long."""
    if len(message) <= MAX_MESSAGE_CHARACTERS:
        return message
    return message[:MAX_MESSAGE_CHARACTERS] + " ..."
