"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_job_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_file", type=Path, metavar="FILE", help="the InferenceJob, as YAML")


def add_mounts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        type=_mount,
        metavar="CLAIM=PATH",
        help="where pvc://CLAIM/... is found on this machine (may be given several times); "
        "hostPath=PATH: below which folder hostPath:// places are",
    )


def _mount(text: str) -> tuple[str, str]:
    claim, separator, path = text.partition("=")
    if not separator or not claim or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: expected CLAIM=PATH, e.g. datasets=/mnt/data")
    return claim, path


def positive(text: str) -> int:
    """A number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number
