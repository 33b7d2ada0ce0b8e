"""The driver's side of a pipeline: stage processes, their sockets, and what has become of them."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from multiprocessing import util
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import zmq

from pipemax_worker.contract.messages import (
    ENCODER,
    STAGE_EVENT_DECODER,
    ExecutorEvent,
    Shutdown,
    StageConfig,
    StageDied,
    StageFailed,
    StageInput,
    StageReady,
    StageReport,
)
from pipemax_worker.errors import InvariantError, StageDiedError, error_from_reason
from pipemax_worker.pipeline.endings import describe_death, find_unclean_end, leaves_last_words
from pipemax_worker.pipeline.launch import STAGE_ENTRY_POINT, start_stage
from pipemax_worker.pipeline.links import assign_addresses, make_socket_folder

LAST_WORDS_SECONDS = 10.0
"""How long the last words of a stage that has exited may still be on their way. They have left it;
on a busy machine, our own end may need a while to read them."""

FAILED_EXIT_SECONDS = 10.0
"""How long a stage that has said why it fails may take to exit before it is killed."""

RECONNECT_MILLISECONDS = 10
"""A stage binds its input when it has started; until then connecting is tried again this often."""

ProgressCallback = Callable[[StageReady], None]


class PipelineExecutor:
    """Implements ``contract.messages.Executor`` over one process for each of ``stage_configs``.

    The configurations come without addresses; the executor gives each pipeline a folder of sockets
    of its own. ``entry_point`` is what a stage process runs. Used by one thread.
    """

    def __init__(
        self,
        stage_configs: Sequence[StageConfig],
        *,
        start_timeout_seconds: float = 1800.0,
        drain_timeout_seconds: float = 10.0,
        entry_point: str = STAGE_ENTRY_POINT,
    ) -> None:
        self._configs = tuple(stage_configs)
        self._start_timeout_seconds = start_timeout_seconds
        self._drain_timeout_seconds = drain_timeout_seconds
        self._entry_point = entry_point
        self._folder: Path | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._inputs: list[zmq.Socket[bytes]] = []
        self._processes: dict[int, ForkServerProcess] = {}
        self._last_words: dict[int, StageFailed] = {}
        self._last_sequences = [-1] * len(self._configs)
        self._dead: set[int] = set()
        self._keeps_nvme_files = any(config.adopt_nvme_file for config in self._configs)
        self._killer = util.Finalize(None, _kill_all, args=(self._processes,), exitpriority=0)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the stages in order, once they are started."""
        return tuple(process.pid or 0 for process in self._processes.values())

    def start(
        self,
        on_ready: ProgressCallback | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> tuple[StageReady, ...]:
        """Start all stages and return when every one has loaded its layers; in order of stages.

        ``on_ready`` is called for each as it gets ready, ``on_wait`` once a second or more often.
        If one fails, or the timeout passes, the pipeline is drained, and the error that the stage
        named is raised (else StageDiedError).
        """
        if self._processes:
            raise InvariantError("this pipeline has been started before; make a new one")
        try:
            self._open_sockets()
            return self._wait_until_ready(on_ready, on_wait)
        except BaseException:
            self.drain()
            raise

    def submit(self, stage_input: StageInput) -> None:
        """Send the message to every stage. Never blocks: the queues have no limit of their own."""
        if not self._inputs:
            raise InvariantError("this pipeline is not running: start it first, or make a new one")
        self._keeps_nvme_files = False
        frame = zmq.Frame(ENCODER.encode(stage_input))
        for socket in self._inputs:
            socket.send(frame, copy=False)

    def collect(self, timeout_seconds: float) -> list[ExecutorEvent]:
        """What has arrived, waiting at most ``timeout_seconds`` for the first of it.

        A stage that ends is one :class:`StageDied`, after all that it has sent.
        """
        self._poll(timeout_seconds)
        return self._receive_events() + self._find_dead_stages()

    def kill(self) -> None:
        """End all stages at once, whatever they are doing; ``drain`` does the rest."""
        for process in self._processes.values():
            if process.is_alive():
                process.kill()

    def drain(self) -> None:
        """Let the stages finish what was submitted and exit; kill those that do not. Then remove
        sockets and KV files. What the stages still say is dropped. Idempotent.

        KV files stay that were parked, or were adopted by a pipeline that nothing was submitted to.
        """
        self._shut_down(Shutdown(not self._keeps_nvme_files), self._drain_timeout_seconds)
        _kill_all(self._processes)
        self._processes.clear()
        self._close_sockets()
        for config in () if self._keeps_nvme_files else self._configs:
            if config.nvme_path is not None:
                with contextlib.suppress(OSError):
                    Path(config.nvme_path).unlink()
        self._killer.cancel()

    def park(self, timeout_seconds: float) -> None:
        """Let the stages exit with their KV files on the disk, for a later pipeline to adopt.

        Raises StageDiedError, or what a stage names as its reason, unless all end cleanly in time;
        they are killed then.
        """
        self._shut_down(Shutdown(remove_nvme_files=False), timeout_seconds)
        self._receive_all()
        exit_codes = {stage: process.exitcode for stage, process in self._processes.items()}
        for stage, exit_code in exit_codes.items():
            self._wait_for_last_words(stage, exit_code)
        failure = find_unclean_end(exit_codes, self._last_words, timeout_seconds)
        self._keeps_nvme_files = failure is None
        if failure is not None:
            self.kill()
            raise failure

    # --- start and end -------------------------------------------------------------------------

    def _open_sockets(self) -> None:
        self._folder = make_socket_folder()
        self._context = zmq.Context()
        configs = assign_addresses(self._configs, self._folder)
        self._events = self._context.socket(zmq.PULL)
        self._events.rcvhwm = 0
        self._events.bind(configs[0].event_address)
        for config in configs:
            socket = self._context.socket(zmq.PUSH)
            socket.sndhwm = 0
            socket.linger = 0
            # The end that connects can always send: one that binds blocks while no peer is there.
            socket.reconnect_ivl = RECONNECT_MILLISECONDS
            socket.connect(config.input_address)
            self._inputs.append(socket)
        for config in configs:
            self._processes[config.stage] = start_stage(config, self._entry_point)

    def _shut_down(self, message: Shutdown, timeout_seconds: float) -> None:
        for socket in self._inputs:
            socket.send(ENCODER.encode(message))
        self._wait_for_clean_ends(timeout_seconds)

    def _wait_for_clean_ends(self, timeout_seconds: float) -> None:
        """Return when all stages have ended, one has ended badly (the others may wait for it
        forever), or the timeout is over."""
        deadline = time.monotonic() + timeout_seconds
        running = list(self._processes.values())
        while running and not any(process.exitcode for process in self._processes.values()):
            remaining_seconds = deadline - time.monotonic()
            if remaining_seconds <= 0 or self._last_words:
                return
            wait([process.sentinel for process in running], remaining_seconds)
            running = [process for process in running if process.exitcode is None]

    def _close_sockets(self) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None
        self._inputs.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _wait_until_ready(
        self, on_ready: ProgressCallback | None, on_wait: Callable[[], None] | None
    ) -> tuple[StageReady, ...]:
        ready: dict[int, StageReady] = {}
        deadline = time.monotonic() + self._start_timeout_seconds
        while len(ready) < len(self._configs):
            if time.monotonic() > deadline:
                missing = sorted(self._processes.keys() - ready.keys())
                raise StageDiedError(
                    f"stages {missing} were not ready after {self._start_timeout_seconds:g} s; "
                    "is the model on a slow disk?"
                )
            if on_wait is not None:
                on_wait()
            self._poll(1.0)
            for event in self._receive_all():
                if isinstance(event, StageReady):
                    ready[event.stage] = event
                    if on_ready is not None:
                        on_ready(event)
            for died in self._find_dead_stages():
                if isinstance(died, StageDied):
                    raise error_from_reason(died.reason, died.message)
        return tuple(ready[stage] for stage in sorted(ready))

    # --- what the stages say -------------------------------------------------------------------

    def _poll(self, timeout_seconds: float) -> None:
        """Wait for an event or the end of a process that has not been reported yet."""
        poller = zmq.Poller()
        poller.register(self._events, zmq.POLLIN)
        for stage, process in self._processes.items():
            if stage not in self._dead:
                poller.register(process.sentinel, zmq.POLLIN)
        poller.poll(round(timeout_seconds * 1000))

    def _receive_all(self) -> list[StageReady | StageFailed | ExecutorEvent]:
        """Decode all that is there; remember last words."""
        events: list[StageReady | StageFailed | ExecutorEvent] = []
        with contextlib.suppress(zmq.Again):
            while True:
                event = STAGE_EVENT_DECODER.decode(self._events.recv(zmq.NOBLOCK))
                if isinstance(event, StageFailed):
                    self._last_words[event.stage] = event
                elif isinstance(event, StageReport):
                    self._last_sequences[event.stage] = event.sequence
                events.append(event)
        return events

    def _receive_events(self) -> list[ExecutorEvent]:
        return [
            event
            for event in self._receive_all()
            if not isinstance(event, StageReady | StageFailed)
        ]

    def _find_dead_stages(self) -> list[ExecutorEvent]:
        """For each stage that has ended: what it had still sent, and a :class:`StageDied`."""
        events: list[ExecutorEvent] = []
        for stage, process in self._processes.items():
            has_failed = stage in self._last_words
            if stage in self._dead or (process.is_alive() and not has_failed):
                continue
            if has_failed:
                process.join(FAILED_EXIT_SECONDS)
                process.kill()
            process.join()
            exit_code = process.exitcode or 0
            events += self._wait_for_last_words(stage, exit_code)
            events += self._receive_events()
            words, last_sequence = self._last_words.get(stage), self._last_sequences[stage]
            events.append(describe_death(stage, exit_code, last_sequence, words))
            self._dead.add(stage)
        return events

    def _wait_for_last_words(self, stage: int, exit_code: int | None) -> list[ExecutorEvent]:
        """Of a stage that has some, by its exit code; what arrives meanwhile."""
        events: list[ExecutorEvent] = []
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while leaves_last_words(exit_code) and stage not in self._last_words:
            if (seconds_left := deadline - time.monotonic()) <= 0:
                break
            self._events.poll(round(seconds_left * 1000))
            events += self._receive_events()
        return events


def _kill_all(processes: dict[int, ForkServerProcess]) -> None:
    """SIGKILL, since stages ignore SIGTERM."""
    for process in processes.values():
        if process.is_alive():
            process.kill()
    for process in processes.values():
        process.join()
        process.close()
