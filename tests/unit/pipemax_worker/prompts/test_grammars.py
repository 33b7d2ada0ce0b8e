"""The process that compiles schemas: what it says, and that no schema gets the better of it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.process_life import is_running
from kit.tokenizer import build_tokenizer_folder
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts import grammars
from pipemax_worker.prompts.grammars import GrammarCompiler

EOS_TOKEN_ID = 2


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tokenizer_folder(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.json"


@pytest.fixture(scope="module")
def compiler(tokenizer_file: Path) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer_file, (EOS_TOKEN_ID,))
    yield compiler
    compiler.close()


def refused(compiler: GrammarCompiler, schema: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        compiler.compile(schema if isinstance(schema, str) else json.dumps(schema))
    return caught.value


def child_of(compiler: GrammarCompiler) -> int:
    """The process id."""
    assert compiler._child is not None
    pid: int = compiler._child._end.peek()[2][1].pid  # type: ignore[index]
    return pid


def chain_of_references(length: int) -> dict[str, Any]:
    """Each names the next: the compiler recurses as deep as the chain is long."""
    links = {
        f"a{i}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}}}
        for i in range(length)
    }
    return {"$defs": links | {f"a{length}": {"type": "string"}}, "$ref": "#/$defs/a0"}


ENDLESS = {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}$"} for i in range(20)]}
"""Whether any string follows all of these patterns takes the library longer than a lifetime."""


def test_a_good_schema_becomes_a_grammar_with_the_models_ends(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile('{"type": "object"}')
    assert grammar.end_token_ids == (EOS_TOKEN_ID,)
    assert '"type":"object"' in grammar.text


def test_each_schema_is_compiled_once(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiler.compile('{"const": "once"}')
    message = refused(compiler, {"type": "nothing"}).message
    monkeypatch.setattr(compiler, "_compile", None)
    assert compiler.compile('{"const": "once"}') is first
    assert refused(compiler, {"type": "nothing"}).message == message


def test_the_cache_forgets_what_was_used_longest_ago(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "MAX_CACHED_SCHEMAS", 2)
    for name in "ababcacac":
        compiler.compile(json.dumps({"const": name}))
    assert [json.loads(schema)["const"] for schema in compiler._known] == ["a", "c"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": 5}, "type must be a string or array"),
        ({"not": {}}, r'Unimplemented keys: \["not"\]'),
        ({"type": "array", "uniqueItems": True}, r'Unimplemented keys: \["uniqueItems"\]'),
        ({"if": {}, "then": {}}, "Unimplemented keys"),
        ({"type": "string", "pattern": "(a"}, "unclosed group"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "colour"}, "Unknown format: colour"),
        ({"$ref": "https://example.com/schema"}, "not present in a registry"),
        ({"$ref": "#/$defs/nobody"}, "does not exist"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable schema"),
        ({"enum": []}, "Unsatisfiable schema"),
        ({"type": "object", "properties": 5}, "properties must be an object"),
        ({"oneOf": [{"type": "object"}, {"minProperties": 1}]}, "oneOf"),
        ('{"const": "\\ud800"}', "hex escape"),
        ("no json", "expected ident"),
        ("[" * 500, "recursion limit"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_the_library_said_is_in_the_error(
    compiler: GrammarCompiler, schema: Any, message: str
) -> None:
    error = refused(compiler, schema)
    assert (error.code, error.param) == ("invalid_response_format", "body.response_format")
    with pytest.raises(RequestError, match=message):
        raise error
    assert len(error.message) < 600


def test_a_schema_that_takes_too_long_is_given_up(tokenizer_file: Path) -> None:
    compiler = GrammarCompiler(tokenizer_file, (EOS_TOKEN_ID,), compile_seconds=1.0)
    compiler.compile("{}")
    pid = child_of(compiler)
    error = refused(compiler, ENDLESS)
    assert error.code == "invalid_response_format"
    assert "did not compile within 1 s" in error.message
    assert not is_running(pid), "it would be busy for ever"
    assert refused(compiler, ENDLESS).message == error.message, "and is not tried again"
    compiler.close()


def test_a_schema_that_kills_the_compiler_is_only_its_own_error(compiler: GrammarCompiler) -> None:
    error = refused(compiler, chain_of_references(20_000))
    assert error.code == "invalid_response_format"
    assert "brought its compiler down" in error.message
    assert compiler.compile('{"const": "after"}')


def test_limits_that_show_only_while_generating_are_found(compiler: GrammarCompiler) -> None:
    names = {f"p{i}": {"type": "null"} for i in range(6000)}
    error = refused(compiler, {"type": "object", "properties": names})
    assert error.code == "invalid_response_format"
    some = {name: names[name] for name in list(names)[:500]}
    assert compiler.compile(json.dumps({"type": "object", "properties": some}))


def test_a_child_that_was_killed_meanwhile_is_replaced(compiler: GrammarCompiler) -> None:
    compiler.compile('{"const": "before"}')
    os.kill(child_of(compiler), signal.SIGKILL)
    assert compiler.compile('{"const": "next"}')


def test_the_child_ends_with_the_compiler(tokenizer_file: Path) -> None:
    closed = GrammarCompiler(tokenizer_file, (EOS_TOKEN_ID,))
    closed.close()
    closed.compile("{}")
    pid = child_of(closed)
    closed.close()
    assert not is_running(pid)
    dropped = GrammarCompiler(tokenizer_file, (EOS_TOKEN_ID,))
    dropped.compile("{}")
    pid = child_of(dropped)
    del dropped
    gc.collect()
    assert not is_running(pid)


def test_the_child_ends_when_the_other_side_of_its_pipe_is_gone(tokenizer_file: Path) -> None:
    """As after a SIGKILL of the driver."""
    compiler = GrammarCompiler(tokenizer_file, (EOS_TOKEN_ID,))
    compiler.compile("{}")
    assert compiler._child is not None
    process: subprocess.Popen[bytes] = compiler._child._end.peek()[2][1]  # type: ignore[index]
    compiler._child._pipe.close()
    assert process.wait(timeout=60) == 0
    compiler.close()


class TestModelsThatCannot:
    def test_without_an_end_token(self, tokenizer_file: Path) -> None:
        error = refused(GrammarCompiler(tokenizer_file, ()), {})
        assert error.code == "unsupported_parameter"
        assert "no end-of-sequence token" in error.message

    @pytest.mark.parametrize("content", [None, "{}", "no json"])
    def test_without_a_tokenizer_that_can_be_read(
        self, tmp_path: Path, content: str | None
    ) -> None:
        if content is not None:
            (tmp_path / "tokenizer.json").write_text(content)
        error = refused(GrammarCompiler(tmp_path / "tokenizer.json", (EOS_TOKEN_ID,)), {})
        assert error.code == "unsupported_parameter"
        assert "tokenizer cannot be used with a schema" in error.message

    def test_whose_end_token_the_tokenizer_does_not_know(self, tokenizer_file: Path) -> None:
        error = refused(GrammarCompiler(tokenizer_file, (99_999,)), {})
        assert error.code == "unsupported_parameter"
        assert "99999" in error.message

    def test_whose_compiler_does_not_start(
        self, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(grammars, "_CHILD", tmp_path / "nowhere.py")
        error = refused(GrammarCompiler(tokenizer_file, (EOS_TOKEN_ID,)), {})
        assert error.code == "unsupported_parameter"
        assert "did not start" in error.message
