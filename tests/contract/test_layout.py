"""The shape of the house, where no linter looks."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

REFUSE_TORCH = """
import importlib.abc, importlib.machinery, sys

class Refuse(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    # Libraries may look whether torch is there; they may not load it.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch" or name.startswith("pipemax_worker.stage"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise AssertionError(f"the driver imported {spec.name}")

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Refuse())
"""


def test_operator_and_worker_folders_are_no_packages() -> None:
    for folder in ("operator", "worker"):
        assert not list((ROOT / folder).glob("*.py"))


def test_no_file_outgrows_the_house() -> None:
    too_long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "worker").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 300
    }
    assert not too_long


def test_every_module_of_the_driver_imports_without_torch() -> None:
    """import-linter does not see what a library imports; this does."""
    modules = [
        ".".join(path.relative_to(ROOT / "worker").with_suffix("").parts)
        for path in sorted((ROOT / "worker" / "pipemax_worker").rglob("*.py"))
        if path.relative_to(ROOT / "worker" / "pipemax_worker").parts[0]
        not in ("stage", "baselines")
    ]
    imports = "".join(f"import {name.removesuffix('.__init__')}\n" for name in modules)
    check = "assert 'torch' not in sys.modules\nprint('no torch')"
    ran = subprocess.run(
        [sys.executable, "-c", REFUSE_TORCH + imports + check],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "worker"), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert ran.stdout.strip() == "no torch", ran.stderr
