"""`pipemax host-folders`: what containers of the operator do as root on a node, and nobody else."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import msgspec

from pipemax_worker.runner.folder_sweep import SweepReport, sweep_job_folders
from pipemax_worker.runner.job_folder import JobMarker, hand_over, prepare_job_folder
from pipemax_worker.runner.termination import MAX_BYTES, TERMINATION_LOG_VARIABLE


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "host-folders",
        help="make and remove a job's folders on a node (the operator's pods call it)",
        description="What only root can do with a job's hostPath folders on a node. The operator's "
        "pods call it; a person may, to see what lies there.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_prepare(actions)
    _add_sweep(actions)


def _add_prepare(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "prepare", help="make a job's NVMe folder, and hand folders to the worker's user"
    )
    parser.add_argument("--user", type=int, required=True, help="numeric user of the worker")
    parser.add_argument("--nvme", type=Path, metavar="ROOT", help="kvCache.nvme.hostPath")
    for name in ("uid", "namespace", "name"):
        parser.add_argument(f"--{name}", default="", help=f"{name} of the InferenceJob, for --nvme")
    parser.add_argument(
        "--hand-over",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="give FOLDER to the user if it is root's and empty (may be given several times)",
    )
    parser.set_defaults(command=prepare)


def _add_sweep(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "sweep",
        help="remove the NVMe folders of jobs that have ended",
        description="Removes ROOT/UID for each --uid: only folders that the operator has made, and "
        "none in which a worker lives. Prints a JSON object: what is gone, and what else is there.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="kvCache.nvme.hostPath of the jobs")
    parser.add_argument(
        "--uid",
        action="append",
        default=[],
        help="of a job that has ended (may be given several times; none: only look)",
    )
    parser.add_argument(
        "--wait-seconds",
        type=float,
        default=0.0,
        help="how long workers that still live may take to end",
    )
    parser.set_defaults(command=sweep)


def prepare(options: argparse.Namespace) -> int:
    for folder in options.hand_over:
        if hand_over(folder, options.user):
            print(f"{folder}: given to user {options.user}")
    if options.nvme is not None:
        marker = JobMarker(options.uid, options.namespace, options.name)
        prepare_job_folder(options.nvme, marker, options.user)
        print(f"{options.nvme / options.uid}: ready for user {options.user}")
    return os.EX_OK


def sweep(options: argparse.Namespace) -> int:
    """What could not be removed is in the report, and no failure: the next sweep tries again."""
    report = sweep_job_folders(options.root, options.uid, options.wait_seconds)
    print(json.dumps(msgspec.to_builtins(report), indent=2))
    if (log := os.environ.get(TERMINATION_LOG_VARIABLE)) is not None:
        Path(log).write_bytes(encode_report(report, MAX_BYTES))
    return os.EX_OK


def encode_report(report: SweepReport, max_bytes: int) -> bytes:
    """With as many of the folders that are left as there is room for: a later sweep names more."""
    while len(data := msgspec.json.encode(report)) > max_bytes and (report.left or report.failed):
        failed = dict(list(report.failed.items())[: len(report.failed) // 2])
        left = report.left[: len(report.left) // 2]
        report = msgspec.structs.replace(report, left=left, failed=failed)
    return data
