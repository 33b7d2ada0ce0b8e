"""`pipemax top`: what runs, live, on this machine or in a cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType

from pipemax_worker.errors import UnreachableError
from pipemax_worker.top.cluster_frame import draw_cluster
from pipemax_worker.top.http import DEFAULT_PORT, progress_url, read_worker
from pipemax_worker.top.kubectl import Kubectl
from pipemax_worker.top.rates import RateMeter
from pipemax_worker.top.read_cluster import read_cluster
from pipemax_worker.top.screen import Keys, watch
from pipemax_worker.top.worker_frame import draw_workers
from pipemax_worker.top.worker_page import WorkerPage

Frame = Callable[[int, int | None], RenderableType]
"""Width and height -> a frame; a height of None: as long as it gets. Raises UnreachableError."""

INTERVAL_SECONDS = 2.0
CLUSTER_INTERVAL_SECONDS = 5.0
MIN_INTERVAL_SECONDS = 0.5


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "top",
        help="show what runs, live, on this machine or in a cluster",
        description="Shows workers of this machine (those that `pipemax run --port` serves), or "
        "all InferenceJobs of a cluster, through kubectl. Key q ends it. Where the output is no "
        "terminal, one frame is printed.",
    )
    parser.add_argument(
        "places",
        nargs="*",
        metavar="URL",
        help="workers to ask: http://HOST:PORT, HOST:PORT or PORT (default: this machine's port "
        f"{DEFAULT_PORT})",
    )
    parser.add_argument(
        "--metrics-port",
        action="append",
        default=[],
        type=int,
        metavar="PORT",
        help="of a worker of this machine (may be given several times)",
    )
    parser.add_argument("--once", action="store_true", help="print one frame, and end")
    parser.add_argument("--interval", type=_seconds, metavar="SECONDS", help="between two frames")
    _add_cluster_arguments(parser)
    parser.set_defaults(command=top)


def _add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    cluster = parser.add_argument_group("a cluster")
    cluster.add_argument("--cluster", action="store_true", help="ask a cluster, through kubectl")
    cluster.add_argument("-n", "--namespace", help="of the jobs (default: all)")
    cluster.add_argument("--context", help="as kubectl has it")
    cluster.add_argument("--kubeconfig", metavar="FILE", help="as kubectl has it")


def top(options: argparse.Namespace) -> int:
    console = Console()
    if options.cluster:
        frame = _cluster_frame(Kubectl(_kubectl_options(options)), options.namespace)
    else:
        places = [*options.places, *map(str, options.metrics_port)] or [str(DEFAULT_PORT)]
        frame = _machine_frame([progress_url(place) for place in places])
    if options.once or not console.is_terminal:
        console.print(frame(console.width, None))
        return 0
    standard = CLUSTER_INTERVAL_SECONDS if options.cluster else INTERVAL_SECONDS
    watch(_lasting(frame), console, options.interval or standard, Keys(sys.stdin))
    return 0


def _kubectl_options(options: argparse.Namespace) -> list[str]:
    named = {"--context": options.context, "--kubeconfig": options.kubeconfig}
    return [f"{name}={value}" for name, value in named.items() if value]


def _machine_frame(urls: Sequence[str]) -> Frame:
    meter = RateMeter()

    def draw(width: int, _: int | None) -> RenderableType:
        pages: dict[str, WorkerPage] = {}
        faults: dict[str, str] = {}
        for url in urls:
            try:
                pages[url.removesuffix("/progress")] = read_worker(url)
            except UnreachableError as error:
                faults[url] = str(error)
        if not pages:
            raise UnreachableError("; ".join(faults.values()))
        return draw_workers(pages, meter.measure(pages), faults, width)

    return draw


def _cluster_frame(kubectl: Kubectl, namespace: str | None) -> Frame:
    meter = RateMeter()

    def draw(width: int, height: int | None) -> RenderableType:
        picture = read_cluster(kubectl, namespace)
        return draw_cluster(picture, meter.measure(picture.pages), width, height)

    return draw


def _lasting(frame: Frame) -> Callable[[int, int], RenderableType]:
    """The first frame may fail; a later one says what is wrong, and the next is tried."""
    has_succeeded = False

    def draw(width: int, height: int) -> RenderableType:
        nonlocal has_succeeded
        try:
            drawn = frame(width, height)
        except UnreachableError as error:
            if not has_succeeded:
                raise
            return str(error)
        has_succeeded = True
        return drawn

    return draw


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not MIN_INTERVAL_SECONDS <= seconds <= 3600:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected seconds from {MIN_INTERVAL_SECONDS} to 3600"
        )
    return seconds
