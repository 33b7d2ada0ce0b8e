"""Lines as nobody should write them: each gets one record, valid JSON, with a typed code.

Reader, prompts and writer are the real ones, the engine answers at once. The lines lie in several
files, one of them compressed. `make fuzz` sends 100,000 of them.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from kit.fake_run import FakeSessions
from kit.fuzzed_lines import make_line
from kit.jobs import JobFolder, write_hollow_model
from pipemax_worker.runner import run as run_module
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.run import run_job

NUM_LINES = int(os.environ.get("PIPEMAX_FUZZED_LINES", "3000"))
NUM_FILES = 4
KNOWN_CODES = {
    "chat_template_failed",
    "context_length_exceeded",
    "duplicate_custom_id",
    "empty_prompt",
    "invalid_encoding",
    "invalid_json",
    "invalid_method",
    "invalid_response_format",
    "invalid_type",
    "invalid_value",
    "kv_cache_exceeded",
    "missing_field",
    "model_not_found",
    "unknown_url",
    "unsupported_parameter",
    "value_out_of_range",
}


def write_input(folder: Path) -> set[tuple[str, int]]:
    """The keys of all lines that are not blank."""
    keys = set()
    for number in range(NUM_FILES):
        lines = [make_line(index) for index in range(number, NUM_LINES, NUM_FILES)]
        data = b"".join(line + b"\n" for line in lines)
        name = f"{number}.jsonl" + (".gz" if number == 0 else "")
        (folder / name).write_bytes(gzip.compress(data, 1) if number == 0 else data)
        offset = 0
        for line in lines:
            if line.strip():
                keys.add((name, offset))
            offset += len(line) + 1
    return keys


def records_of(job: JobFolder) -> Iterator[dict[str, object]]:
    for path in (job.output / "results").glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line.decode("utf-8"), parse_constant=refuse_constant)


def refuse_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


@pytest.mark.timeout(1800)
def test_every_fuzzed_line_has_one_record(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = FakeSessions()
    sessions.engine.per_step = 64
    monkeypatch.setattr(run_module, "open_session", sessions)
    job = JobFolder(tmp_path, write_hollow_model(tmp_path_factory.mktemp("model") / "tiny"))
    keys = write_input(tmp_path)
    job_file = job.write({"input.uri": "*.jsonl*"})
    run_job(job_file, RunOptions(quiet=True), StringIO())
    found = Counter[tuple[str, int]]()
    codes = Counter[str]()
    for record in records_of(job):
        origin, error = record["pipemax"], record["error"]
        assert isinstance(origin, dict)
        found[origin["file"], origin["offset"]] += 1
        if error is not None:
            assert isinstance(error, dict)
            assert re.match(r"\d\.jsonl(\.gz)?, line \d+: ", error["message"])
            codes[error["code"]] += 1
        else:
            codes["answered"] += 1
    assert found.keys() == keys
    assert max(found.values()) == 1
    assert codes.keys() - {"answered"} <= KNOWN_CODES
    assert min(codes["answered"], codes["invalid_json"], codes["invalid_type"]) > NUM_LINES // 50
    assert len(codes) > 10, "the lines are wrong in many ways"
