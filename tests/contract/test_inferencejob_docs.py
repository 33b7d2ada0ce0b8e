"""docs/inferencejob.md is what the models say, and says something of every field."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pipemax_worker.job import json_schema, parse_job

ROOT = Path(__file__).parents[2]
GENERATOR = ROOT / "tools" / "generate_docs.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(generator: ModuleType) -> str:
    text: str = generator.PAGE.read_text(encoding="utf-8")
    return text


def field_paths(schema: dict[str, object], path: str = "") -> list[tuple[str, object]]:
    paths: list[tuple[str, object]] = []
    properties = schema.get("properties", {})
    assert isinstance(properties, dict)
    for name, field in properties.items():
        inner = f"{path}.{name}".removeprefix(".")
        paths.append((inner, field.get("description")))
        paths += field_paths(field.get("items", field), inner)
    return paths


FIELDS = field_paths(json_schema())


@pytest.mark.parametrize(("path", "description"), FIELDS, ids=[path for path, _ in FIELDS])
def test_every_field_has_a_description(path: str, description: object) -> None:
    assert isinstance(description, str)
    assert len(description.split()) >= 2 or path == "metadata.annotations"
    assert description.endswith(".")


def test_the_page_is_current(generator: ModuleType, page: str) -> None:
    assert generator.render() == page, "run tools/generate_docs.py"


def test_every_field_has_a_row(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(path.rpartition(".")[2] for path, _ in FIELDS)


def test_every_link_has_its_heading(page: str) -> None:
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    headings = {line[3:].replace(".", "").lower() for line in re.findall(r"^## .*", page, re.M)}
    assert links
    assert links <= headings


def test_the_examples_of_the_page_are_job_files(page: str) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [parse_job(text, "example").metadata.name for text in examples] == ["reviews"] * 2


@pytest.mark.parametrize(("is_stale", "exit_status"), [(False, 0), (True, 1)])
def test_check_tells_whether_the_page_is_stale(
    generator: ModuleType,
    page: str,
    is_stale: bool,
    exit_status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = tmp_path / "inferencejob.md"
    copy.write_text(page + "x" * is_stale, encoding="utf-8")
    monkeypatch.setattr(generator, "PAGE", copy)
    monkeypatch.setattr(sys, "argv", ["generate_docs.py", "--check"])
    assert generator.main() == exit_status
    monkeypatch.setattr(sys, "argv", ["generate_docs.py"])
    assert generator.main() == 0
    assert copy.read_text(encoding="utf-8") == page


def test_reading_jobs_loads_no_torch() -> None:
    code = "import sys, pipemax_worker.job; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "worker")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
