"""Write what is generated of the chart: its CRD, and manifests/install.yaml for use without Helm.

python tools/generate_chart.py            write both
python tools/generate_chart.py --check    exit 1 if a file is not what would be written
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "operator", "worker")]

from kit.control_plane.clients import find_clients  # noqa: E402
from pipemax_operator.crd import build_crd  # noqa: E402

CHART = ROOT / "charts" / "pipemax"
CRD_FILE = CHART / "files" / "crd.yaml"
INSTALL_FILE = ROOT / "manifests" / "install.yaml"
RELEASE, NAMESPACE = "pipemax", "pipemax-system"
WIDTH = 100

# What only Helm reads, and what would be untrue without it.
HELM_ONLY = ("helm.sh/chart:", "app.kubernetes.io/managed-by: Helm")

CRD_HEADER = """\
# Generated from the models of worker/pipemax_worker/job/ by tools/generate_chart.py; do not edit.
# `kubectl apply --server-side -f` installs it alone.
"""
INSTALL_HEADER = f"""\
# PipeMax without Helm: `kubectl apply --server-side -f manifests/install.yaml`.
# `kubectl delete -f` takes the CustomResourceDefinition along, and with it every InferenceJob.
# Rendered from charts/pipemax by tools/generate_chart.py; do not edit.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    app.kubernetes.io/part-of: pipemax
"""


def render_crd() -> str:
    """The CustomResourceDefinition as the chart's file."""
    return CRD_HEADER + yaml.safe_dump(build_crd(), sort_keys=False, width=WIDTH)


def render_install() -> str:
    """Everything that the chart installs with its defaults. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as home:
        rendered = subprocess.run(
            [
                *(str(find_clients()["helm"]), "template", RELEASE, str(CHART)),
                *("--namespace", NAMESPACE, "--no-hooks", "--set", "crds.keep=false"),
            ],
            check=True,
            capture_output=True,
            text=True,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        ).stdout
    lines = [line for line in rendered.splitlines() if not line.strip().startswith(HELM_ONLY)]
    return INSTALL_HEADER + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, tell what is stale")
    arguments = parser.parse_args()
    stale = False
    # In this order: the second holds the first.
    for path, render in ((CRD_FILE, render_crd), (INSTALL_FILE, render_install)):
        text = render()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if arguments.check:
            print(f"{path.relative_to(ROOT)} is stale: run tools/generate_chart.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return int(stale and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
