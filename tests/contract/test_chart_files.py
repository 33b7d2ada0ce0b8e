"""What is generated of the chart is current; nothing that is committed names a registry."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pipemax_operator.crd import build_crd

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_chart", ROOT / "tools" / "generate_chart.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_crd_is_generated(generator: ModuleType) -> None:
    text = generator.CRD_FILE.read_text(encoding="utf-8")
    assert text == generator.render_crd(), "run tools/generate_chart.py"
    assert yaml.safe_load(text) == build_crd()


def test_install_yaml_is_rendered(generator: ModuleType) -> None:
    text = generator.INSTALL_FILE.read_text(encoding="utf-8")
    assert text == generator.render_install(), "run tools/generate_chart.py"


def test_install_yaml_does_not_speak_of_helm_and_makes_its_namespace(generator: ModuleType) -> None:
    text = generator.INSTALL_FILE.read_text(encoding="utf-8")
    documents = [document for document in yaml.safe_load_all(text) if document]
    assert documents[0]["kind"] == "Namespace"
    assert "helm.sh" not in text
    assert "managed-by: Helm" not in text
    namespaces = {document["metadata"].get("namespace") for document in documents}
    assert namespaces == {None, documents[0]["metadata"]["name"]}


@pytest.mark.parametrize(("is_stale", "exit_status"), [(False, 0), (True, 1)])
def test_check_tells_whether_a_file_is_stale(
    generator: ModuleType,
    is_stale: bool,
    exit_status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = tmp_path / "install.yaml"
    copy.write_text(generator.render_install() + "#\n" * is_stale, encoding="utf-8")
    monkeypatch.setattr(generator, "INSTALL_FILE", copy)
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate_chart.py", "--check"])
    assert generator.main() == exit_status


def test_images_are_named_without_a_registry() -> None:
    files = [*(ROOT / "charts").rglob("*.yaml"), ROOT / "manifests" / "install.yaml"]
    for path in files:
        for name in re.findall(r'^\s+image: "?([^\s"{]+)', path.read_text("utf-8"), re.MULTILINE):
            assert re.fullmatch(r"pipemax-(operator|worker):[\d.]+", name), (path, name)


@pytest.mark.parametrize("part", ["operator", "worker"])
def test_images_are_installed_as_the_tests_install(part: str) -> None:
    text = (ROOT / part / "Dockerfile").read_text(encoding="utf-8")
    extras = {"operator": "'.[operator]'", "worker": '".[${EXTRAS}]"'}[part]
    assert f"-c constraints.txt {extras}" in text
    assert part == "operator" or "ARG EXTRAS=worker,gpu\n" in text
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-c constraints.txt -e '.[worker" in makefile
    user = {"operator": "10002:10002", "worker": "10001:10001"}[part]
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == [user]
