"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
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


def names_among(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """An argument's type: some of ``known``, with commas between; each counts once."""
    choices = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        if unknown := [name for name in names if name not in choices]:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)}: unknown; choose from {', '.join(choices)}"
            )
        return names

    return parse


def positive(text: str) -> int:
    """A number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number
