"""Input lines as nobody should write them, seeded: the same number gives the same line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from pipemax_worker.prompts.settings import SamplingDefaults

_STRINGS = (
    "",
    "\0",
    "a\0b",
    "\x1b[2J",
    "\ufeff",
    "\u2028\u2029",
    "é" * 50,
    "😀" * 20,
    "‮txet",
    "<|endoftext|>",
    "{{ 1 }}",
    "%s%n",
    "9" * 400,
    "\\",
    '"',
    "../../etc/passwd",
)
_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 0.0, -0.0, 1e-320, 1e308, 0.5, 2.5)
_FIELDS = (
    *SamplingDefaults.__struct_fields__,
    *("messages", "prompt", "model", "n", "logprobs", "top_logprobs", "logit_bias", "stream"),
    *("max_completion_tokens", "tools", "tool_choice", "user", "echo", "suffix", "best_of"),
    *("response_format", "chat_template_kwargs", "seed", "stop_token_ids", "functions"),
)


def make_line(number: int, seed: int = 0) -> bytes:
    """One line without its end. Some are fine."""
    rng = random.Random(f"{seed}-{number}")
    return rng.choice(_KINDS)(rng, number).replace(b"\n", b" ")


def _envelope(rng: random.Random, number: int) -> dict[str, Any]:
    body: dict[str, Any] = {"max_tokens": rng.randint(1, 4)}
    if rng.random() < 0.5:
        url, body["prompt"] = "/v1/completions", "Hello world"
    else:
        url = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": "Hello"}]
    return {"custom_id": f"id-{number}", "method": "POST", "url": url, "body": body}


def _value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, mostly an awkward one."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(_NUMBERS)
    if kind <= 4:
        return rng.choice(_STRINGS)
    if kind == 5:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(_value(rng, 9)): _value(rng, depth + 1) for _ in range(rng.randrange(4))}


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _good(rng: random.Random, number: int) -> bytes:
    return _dump(_envelope(rng, number))


def _random_bytes(rng: random.Random, number: int) -> bytes:
    return rng.randbytes(rng.randrange(1, 200))


def _truncated(rng: random.Random, number: int) -> bytes:
    data = _good(rng, number)
    return data[: rng.randrange(1, len(data))]


def _flipped(rng: random.Random, number: int) -> bytes:
    data = bytearray(_good(rng, number))
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _wrong_envelope(rng: random.Random, number: int) -> bytes:
    line = _envelope(rng, number)
    for _ in range(rng.randint(1, 3)):
        line[rng.choice([*line, "extra", "body"])] = _value(rng)
    return _dump(line)


def _missing(rng: random.Random, number: int) -> bytes:
    line = _envelope(rng, number)
    del line[rng.choice(list(line))]
    return _dump(line)


def _wrong_body(rng: random.Random, number: int) -> bytes:
    line = _envelope(rng, number)
    for _ in range(rng.randint(1, 3)):
        line["body"][rng.choice(_FIELDS)] = _value(rng)
    return _dump(line)


def _wrong_messages(rng: random.Random, number: int) -> bytes:
    line = _envelope(rng, number)
    message = {name: _value(rng) for name in rng.sample(("role", "content", "name", "x"), 3)}
    if rng.random() < 0.5:
        message["role"] = rng.choice(("user", "system", "assistant", "tool", "developer"))
    line["url"], line["body"] = "/v1/chat/completions", {"messages": [message]}
    return _dump(line)


def _huge_number(rng: random.Random, number: int) -> bytes:
    line = _envelope(rng, number)
    line["body"][rng.choice(_FIELDS)] = "NUMBER"
    digits = rng.choice((20, 309, 4301, 20_000)) * "9"
    text = rng.choice((digits, "-" + digits, "0." + digits, "1e" + digits[:400], "NaN", "Infinity"))
    return _dump(line).replace(b'"NUMBER"', text.encode())


def _deep(rng: random.Random, number: int) -> bytes:
    line = _envelope(rng, number)
    line["body"][rng.choice(_FIELDS)] = "DEEP"
    depth = rng.choice((50, 900, 5_000, 50_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    text = opening * depth + "1" + closing * (depth if rng.random() < 0.7 else 0)
    return _dump(line).replace(b'"DEEP"', text.encode())


def _surrogates(rng: random.Random, number: int) -> bytes:
    """Halves of pairs, escaped (legal JSON) or as bytes (no UTF-8)."""
    line = _envelope(rng, number)
    half = rng.choice(("\ud800", "\udfff", "\udc00\ud800", "x\udbff"))
    places: list[tuple[dict[str, Any], str]] = [(line, "custom_id"), (line["body"], "model")]
    places += [(line["body"], "prompt" if "prompt" in line["body"] else "user"), (line, half)]
    for target, field in rng.sample(places, 2):
        target[field] = half
    return _dump(line) if rng.random() < 0.3 else json.dumps(line).encode()


def _control_characters(rng: random.Random, number: int) -> bytes:
    """NUL and its kind, raw in the line or escaped in a string."""
    line = _envelope(rng, number)
    line["custom_id"] = f"a\0{number}\x07"
    data = json.dumps(line).encode()
    if rng.random() < 0.5:
        position = rng.randrange(len(data))
        data = data[:position] + bytes([rng.choice((0, 1, 13, 11, 127, 255))]) + data[position:]
    return data


def _long(rng: random.Random, number: int) -> bytes:
    line = _envelope(rng, number)
    field = rng.choice(("custom_id", "url", "body", "x"))
    line[field] = rng.choice("xé ") * rng.choice((1_000, 20_000))
    return _dump(line)


def _repeated(rng: random.Random, number: int) -> bytes:
    """An id that others have, or a field twice."""
    line = _envelope(rng, number % 7)
    data = _dump(line)
    return data if rng.random() < 0.5 else b'{"custom_id": 1, ' + data[1:]


def _no_object(rng: random.Random, number: int) -> bytes:
    return _dump(_value(rng))


def _around(rng: random.Random, number: int) -> bytes:
    """A good line with something before or behind it."""
    some = rng.choice((b"\xef\xbb\xbf", b"  ", b"\r", b"\x00", b"{}", b",", b"//", b"\xff\xfe"))
    data = _good(rng, number)
    return some + data if rng.random() < 0.5 else data + some


_KINDS: tuple[Callable[[random.Random, int], bytes], ...] = (
    _good,
    _random_bytes,
    _truncated,
    _flipped,
    _wrong_envelope,
    _missing,
    _wrong_body,
    _wrong_body,
    _wrong_messages,
    _huge_number,
    _deep,
    _surrogates,
    _control_characters,
    _long,
    _repeated,
    _no_object,
    _around,
)
